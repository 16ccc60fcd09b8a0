"""The Python interface returns the numbers of the model itself, and refuses wrong input in one line."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from looking_site import write_model
from tiny import FP32_BOUND

import msp_ds
from msp_ds.data.format.shards import open_set
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.library import Model, best_first
from msp_ds.records import Batch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def matcher(looking_site: Path) -> Model:
    return msp_ds.load(looking_site / "runs" / "tps", shards=looking_site / "shards" / "sentence" / "val")


@pytest.fixture(scope="module")
def answerer(looking_site: Path) -> Model:
    return msp_ds.load(
        str(looking_site / "runs" / "vqa"), shards=str(looking_site / "shards" / "vqa" / "val"), device="cpu"
    )


def of_set(model: Model, pairs: list[int], images: list[int]) -> Batch:
    """Texts of the set with images of it, as training would read them."""
    rows = torch.tensor(images)
    return model.reader.read(
        torch.tensor(pairs), images=rows, matched=torch.ones(len(rows)).bool(), random_regions=torch.empty(len(rows), 0)
    )


def texts_of(model: Model, pairs: list[int]) -> list[str]:
    """The set's texts, from its own table of pieces."""
    return [model._text_of(pair) for pair in pairs]


@torch.no_grad()
def test_a_free_text_scores_what_the_same_text_of_the_set_scores(matcher: Model) -> None:
    pairs, images = [0, 3, 7], [5, 0]
    scores = matcher.score(texts_of(matcher, pairs), [matcher.image_ids[row] for row in images])
    assert scores.shape == (3, 2)
    assert scores.std() > 0.001
    for row, pair in enumerate(pairs):
        for column, image in enumerate(images):
            logits = matcher.heads["match"](matcher.backbone(of_set(matcher, [pair], [image])).pair)[0]
            assert float(scores[row, column]) == pytest.approx(float(logits[1] - logits[0]), abs=FP32_BOUND)


@torch.no_grad()
def test_states_are_those_of_the_backbone(matcher: Model) -> None:
    states = matcher.embed(texts_of(matcher, [2, 9]), [matcher.image_ids[row] for row in (1, 4)])
    whole = matcher.backbone(of_set(matcher, [2, 9], [1, 4]))
    torch.testing.assert_close(states.pair, whole.pair, atol=FP32_BOUND, rtol=0)
    torch.testing.assert_close(states.regions, whole.regions, atol=FP32_BOUND, rtol=0)


def test_a_search_ranks_all_images_by_their_scores(matcher: Model) -> None:
    heard: list[int] = []
    found = matcher.search("a red ball", top=3, advance=heard.append)
    scores = matcher.score(["a red ball"], matcher.image_ids)[0]
    assert [one.score for one in found] == scores.sort(descending=True).values[:3].tolist()
    assert [matcher.locate(one.image_id) for one in found] == scores.argsort(descending=True)[:3].tolist()
    assert sum(heard) == len(matcher.image_ids)
    assert all(one.probability == pytest.approx(1 / (1 + math.exp(-one.score))) for one in found)


def test_the_texts_that_fit_an_image_come_best_first_and_its_own_are_known(matcher: Model) -> None:
    image = matcher.image_ids[2]
    found = matcher.captions(image, top=1000)
    assert len(found) == len(matcher.reader.keys)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    own = {one.text for one in found if one.is_own}
    assert own == set(texts_of(matcher, (matcher.reader.images == 2).nonzero().squeeze(1).tolist()))
    pool = ["a red ball", "two dogs in a kitchen", *own]
    chosen = matcher.captions(image, pool=pool)
    scores = dict(zip(pool, matcher.score(pool, [image])[:, 0].tolist(), strict=True))
    assert {one.text: pytest.approx(one.score, abs=FP32_BOUND) for one in chosen} == scores
    assert {one.text for one in chosen if one.is_own} == own


def test_the_nearest_images_are_those_of_the_nearest_mean_states(matcher: Model) -> None:
    rows = list(range(len(matcher.image_ids)))
    with torch.no_grad():
        batch = of_set(matcher, [0] * len(rows), rows)
        states = matcher.backbone.regions(batch.features, batch.boxes)[:, 1:]
    means = torch.stack(
        [state[: int(here.sum())].mean(0) for state, here in zip(states, batch.region_mask, strict=True)]
    )
    means = means - means.mean(0)
    own = means[3]
    wanted = {
        matcher.image_ids[row]: float(mean @ own / (mean.norm() * own.norm()))
        for row, mean in enumerate(means)
        if row != 3
    }
    found = matcher.nearest(matcher.image_ids[3], top=100)
    assert dict(found) == pytest.approx(wanted, abs=FP32_BOUND)
    likenesses = [likeness for _, likeness in found]
    assert likenesses == sorted(likenesses, reverse=True)


@torch.no_grad()
def test_answers_are_a_distribution_over_those_of_the_set(answerer: Model) -> None:
    question, image = texts_of(answerer, [4])[0], answerer.image_ids[int(answerer.reader.images[4])]
    answers = answerer.answer(question, image)
    logits = answerer.heads["answer"](answerer.backbone(of_set(answerer, [4], [int(answerer.reader.images[4])])).pair)[
        0
    ]
    chances = (logits.exp() / logits.exp().sum()).tolist()
    assert answers == pytest.approx(dict(zip(answerer.answers, chances, strict=True)), abs=FP32_BOUND)
    assert list(answers.values()) == sorted(answers.values(), reverse=True)


def test_right_answers_are_those_of_the_question_of_the_set(answerer: Model) -> None:
    ids, scores = answerer.reader.answers(torch.tensor([4]))
    right = answerer.right_answers(texts_of(answerer, [4])[0], answerer.image_ids[int(answerer.reader.images[4])])
    assert set(right) == {answerer.answers[int(place)] for place in ids[0] if place >= 0}
    assert right[0] == answerer.answers[int(ids[0][scores[0].argmax()])]
    assert answerer.right_answers("why ?", answerer.image_ids[0]) == ()


def test_the_words_of_a_text_look_at_the_regions_of_its_image(matcher: Model) -> None:
    attention = matcher.attention("a Red  ball, here", matcher.image_ids[0])
    assert attention.words == ("a", "red", "ball,", "here")
    regions = int(matcher.shards.region_counts[0])
    assert attention.weights.shape == (4, regions)
    assert (attention.weights >= 0).all()
    assert (attention.weights.sum(1) < 1).all()  # the rest lies on the visual [CLS]


def test_equal_scores_keep_their_order() -> None:
    assert best_first(torch.tensor([1.0, 2.0, 1.0, 2.0]), 3) == [1, 3, 0]
    with pytest.raises(InputError, match="top 0 shows nothing"):
        best_first(torch.tensor([1.0]), 0)


def test_wrong_input_is_refused_in_one_line(looking_site: Path, matcher: Model, answerer: Model) -> None:
    image = matcher.image_ids[0]
    with pytest.raises(InputError, match=r"val holds no image 'coco-0'; it has 8, such as coco-\d+, coco-\d+"):
        matcher.score(["a ball"], ["coco-0"])
    with pytest.raises(InputError, match="the text '  ' has no word"):
        matcher.search("  ")
    with pytest.raises(InputError, match="2 texts and 1 images make no pairs"):
        matcher.embed(["a", "b"], [image])
    with pytest.raises(ShardError, match="val holds no answers to choose from; use the shards of the benchmark"):
        matcher.answer("why ?", image)
    with pytest.raises(CheckpointError, match="has heads answer but no match head; the sentence stage trains it"):
        answerer.search("a ball")
    with pytest.raises(CheckpointError, match="has heads match but no answer head; msp-ds finetune --task vqa"):
        msp_ds.load(looking_site / "runs" / "tps", shards=answerer.shards.path).answer("why ?", answerer.image_ids[0])


def test_a_model_of_other_words_or_answers_is_refused(looking_site: Path, answerer: Model, tmp_path: Path) -> None:
    other = make_other_words(looking_site / "runs" / "tps", tmp_path / "other")
    with pytest.raises(ShardError, match="was written with another vocabulary"):
        msp_ds.load(other, shards=answerer.shards.path)
    few = write_model(tmp_path / "few", answerer.shards, "answer", seed=0, num_answers=2)
    with pytest.raises(ShardError, match=r"val has \d+ answers to choose from, .*few 2; take the shards that it was"):
        msp_ds.load(few, shards=answerer.shards.path).answer("why ?", answerer.image_ids[0])


def make_other_words(model: Path, path: Path) -> Path:
    """The same weights, which say that they know other word pieces."""
    path.mkdir()
    for name in ("weights.safetensors", "model.json"):
        (path / name).write_bytes((model / name).read_bytes())
    card = (path / "model.json").read_text()
    (path / "model.json").write_text(re.sub(r'("vocabulary_sha256": ")\w+', rf"\g<1>{'0' * 64}", card))
    return path


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md"])
def test_the_example_of_a_page_runs(page: str, looking_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(import msp_ds\n.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(looking_site)
    found: dict[str, object] = {}
    exec(compile(example, page, "exec"), found)
    assert open_set(looking_site / "shards" / "sentence" / "val").keys[0] == found["image"]
    answers = found["answers"]
    assert isinstance(answers, dict)
    assert sum(answers.values()) == pytest.approx(1)


def test_a_script_ends_without_a_word_of_what_it_leaves_open(looking_site: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(import msp_ds\n.*?)```", text, re.DOTALL)
    ended = subprocess.run([sys.executable, "-c", script], cwd=looking_site, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
