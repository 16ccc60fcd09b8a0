"""The benchmark of retrieval compares like with like: its loop scores what the model scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FP32_BOUND

from msp_ds.errors import InputError
from msp_ds.evaluation.ranking import Pool
from tools.bench.retrieval import LENGTHS, Contest, Turns, compare, made_up, recalls, released_scores, ways_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    return made_up("tiny", tmp_path_factory.mktemp("made up"), images=5, captions=4)


def test_the_made_up_captions_have_the_lengths_they_should(contest: Contest) -> None:
    reader, pool = contest.reader, contest.pool
    assert [reader.texts(pool.captions[[place]])[0].shape[1] for place in range(4)] == list(LENGTHS)


@torch.no_grad()
def test_the_loop_scores_what_the_whole_model_scores(contest: Contest) -> None:
    scores = released_scores(contest.backbone, contest.head, contest.reader, contest.pool)
    reader, pool = contest.reader, contest.pool
    for image, pair in enumerate(pool.first_pairs):
        rows = pool.captions
        batch = reader.read(
            rows,
            images=reader.images[pair].repeat(len(rows)),
            matched=torch.ones(len(rows)).bool(),
            random_regions=torch.empty(len(rows), 0),
        )
        logits = contest.head(contest.backbone(batch).pair)
        torch.testing.assert_close(scores[image], logits[:, 1] - logits[:, 0], atol=FP32_BOUND, rtol=0)
    assert scores.std() > 1e-3


def test_ours_scores_what_the_loop_scores(contest: Contest) -> None:
    ways = ways_of(contest, CPU, bf16=True)
    assert list(ways) == ["released loop", "ours, fp32", "ours, bf16"]
    loop, ours, rounded = (way() for way in ways.values())
    torch.testing.assert_close(ours, loop, atol=FP32_BOUND, rtol=0)
    assert not torch.equal(rounded, ours)


def test_a_model_of_one_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the released code has two streams"):
        ways_of(made_up("tiny-single-stream", tmp_path, images=2, captions=1), CPU, bf16=False)


def test_the_ratio_is_the_median_of_the_turns_ratios() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    pool = Pool(first_pairs=torch.arange(2), captions=torch.arange(2), image_of_caption=torch.arange(2))
    found = {
        "released loop": Turns(name="released loop", seconds=[4.0, 6.0, 5.0], scores=scores),
        "ours": Turns(name="ours", seconds=[2.0, 2.0, 5.0], scores=scores.flip(0)),
    }
    loop, ours = compare(found, pool)
    assert (ours["ratio"], ours["ratio_range"]) == (2.0, (1.0, 3.0))
    assert ours["ms_per_pair"] == 500
    assert loop["image_retrieval"]["R@1"] == 100
    assert (ours["image_retrieval"]["R@1"], ours["largest_difference"], ours["same_order_ratio"]) == (0, 1, 0)


def test_equal_scores_recall_nothing() -> None:
    assert recalls(torch.zeros(12, 3), torch.arange(3)) == {"R@1": 0, "R@5": 0, "R@10": 0}
