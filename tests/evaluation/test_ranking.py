"""A matrix of retrieval scores holds what each pair scores alone; the pool holds the requested images and captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny import CONFIG, FAMILY, FP32_BOUND, rng
from torch import Tensor

from msp_ds.data.format.shards import open_set
from msp_ds.data.format.text import WordPieces
from msp_ds.data.format.vocabulary import parse_vocabulary
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError
from msp_ds.evaluation.ranking import PairScorer, Pool, choose_pool
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import MatchHead
from msp_ds.preparation.writing.shard_writer import SetPlan, write_set
from msp_ds.records import RegionRecord

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "red", "blue", "dog", "ball", "hat", "on", "in"]
CAPTIONS = [
    ["a dog", "the red dog on a blue ball in the hat"],
    ["a hat on the dog", "the ball", "red red red hat"],
    ["blue"],
    ["in the hat a ball", "on", "dog on ball"],
    ["the dog in the red hat", "a blue hat"],
]
"""Texts of one to ten words about five images, which have two to six regions."""

CAPTIONS_BEFORE = [0, 2, 5, 6, 9, 11]


def records() -> Iterator[tuple[RegionRecord, list[str]]]:
    for number, texts in enumerate(CAPTIONS):
        count, rng_of_image = 2 + number, np.random.default_rng(number)
        yield (
            RegionRecord(
                image_id=f"coco-{number}",
                source="by hand",
                height=40,
                width=80,
                features=rng_of_image.random((count, CONFIG.feature_width)).astype(np.float16),
                boxes=rng_of_image.random((count, 4)).astype(np.float32) * [40, 20, 40, 20] + [0, 0, 40, 20],
                object_ids=np.zeros(count, np.int16),
                object_scores=np.ones(count, np.float32),
                attribute_ids=np.zeros(count, np.int16),
                attribute_scores=np.ones(count, np.float32),
            ),
            texts,
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    vocabulary = parse_vocabulary("".join(f"{piece}\n" for piece in PIECES).encode(), name="hand-made")
    plan = SetPlan(
        stage="sentence",
        split="val",
        pieces=WordPieces(vocabulary),
        objects_data=b"dog\nball",
        attributes_data=b"red",
        max_tokens=20,
    )
    folder = tmp_path_factory.mktemp("retrieval") / "sentence" / "val"
    folder.parent.mkdir()
    write_set(folder, plan=plan, examples=records(), counts={})
    return Reader(open_set(folder))


@pytest.fixture(scope="module", params=FAMILY)
def scorer(request: pytest.FixtureRequest) -> PairScorer:
    """Each encoder's."""
    torch.manual_seed(2)
    backbone = Backbone(FAMILY[request.param])
    return PairScorer(backbone, MatchHead(backbone.config, backbone))


@torch.no_grad()
def score_alone(scorer: PairScorer, reader: Reader, *, image: int, caption: int) -> float:
    """The margin of one pair through the whole backbone, in a batch of its own."""
    batch = reader.read(
        torch.tensor([caption]),
        images=torch.tensor([image]),
        matched=torch.ones(1).bool(),
        random_regions=torch.empty(1, 0),
    )
    mismatch, match = scorer.head(scorer.backbone(batch).pair)[0].tolist()
    return match - mismatch


def all_alone(scorer: PairScorer, reader: Reader, *, images: list[int], captions: list[int]) -> Tensor:
    rows = [[score_alone(scorer, reader, image=image, caption=caption) for caption in captions] for image in images]
    return torch.tensor(rows)


@pytest.mark.parametrize("pairs_at_once", [1, 3, 7, 512])
def test_the_matrix_holds_what_each_pair_scores_alone(scorer: PairScorer, reader: Reader, pairs_at_once: int) -> None:
    chosen = PairScorer(scorer.backbone, scorer.head, pairs_at_once=pairs_at_once)
    scores = chosen.scores(reader, choose_pool(reader))
    wanted = all_alone(scorer, reader, images=list(range(5)), captions=list(range(11)))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, wanted, atol=FP32_BOUND, rtol=0)
    assert wanted.std() > 0.01  # scores that differ, so that a swap would show


def test_a_part_of_the_pool_is_scored_in_its_own_order(scorer: PairScorer, reader: Reader) -> None:
    pool = Pool(
        first_pairs=torch.tensor([9, 3, 0]), captions=torch.tensor([8, 1, 5]), image_of_caption=torch.tensor([0, 2, 0])
    )
    wanted = all_alone(scorer, reader, images=[4, 1, 0], captions=[8, 1, 5])
    torch.testing.assert_close(scorer.scores(reader, pool), wanted, atol=FP32_BOUND, rtol=0)


def test_progress_advances_once_for_every_pair(scorer: PairScorer, reader: Reader) -> None:
    heard: list[int] = []
    PairScorer(scorer.backbone, scorer.head, pairs_at_once=8).scores(reader, choose_pool(reader), advance=heard.append)
    assert sum(heard) == 5 * 11
    assert max(heard) <= 8


def test_dropout_is_off_while_scoring(reader: Reader) -> None:
    backbone = Backbone(dataclasses.replace(CONFIG, dropout=0.5)).train()
    scorer = PairScorer(backbone, MatchHead(CONFIG, backbone).train())
    pool = choose_pool(reader)
    assert torch.equal(scorer.scores(reader, pool), scorer.scores(reader, pool))


def test_a_part_in_training_mode_is_refused(reader: Reader) -> None:
    backbone = Backbone(CONFIG)
    scorer = PairScorer(backbone, MatchHead(CONFIG, backbone))
    backbone.layers[1].text_self.dropout.train()
    with pytest.raises(RuntimeError, match=r"backbone.layers.1.text_self.dropout is in training mode"):
        scorer.scores(reader, choose_pool(reader))


def test_nothing_is_projected_twice(reader: Reader) -> None:
    backbone = Backbone(CONFIG)
    rows: dict[str, int] = {"query": 0, "key": 0, "value": 0, "feature": 0}
    layers = {name: getattr(backbone.layers[0].cross, name) for name in ("query", "key", "value")}
    for name, layer in {**layers, "feature": backbone.regions.feature}.items():
        layer.register_forward_hook(
            lambda _, inputs, made, name=name: rows.update({name: rows[name] + inputs[0].flatten(0, -2).shape[0]})
        )
    PairScorer(backbone, MatchHead(CONFIG, backbone), pairs_at_once=2).scores(reader, choose_pool(reader))
    num_tokens = sum(len(text.split()) + 2 for texts in CAPTIONS for text in texts)
    num_slots = 5 * 7  # five images, each with the visual [CLS] and padded to six regions
    assert {rows[name] for name in layers} == {num_tokens + num_slots}
    assert rows["feature"] == 5 * 6


def test_blocks_hold_each_caption_once_and_one_length_each(reader: Reader) -> None:
    backbone = Backbone(CONFIG)
    blocks = PairScorer(backbone, MatchHead(CONFIG, backbone), pairs_at_once=11).blocks(reader, choose_pool(reader))
    assert sorted(column for block in blocks for column in block.tolist()) == list(range(11))
    lengths = [len(text.split()) for texts in CAPTIONS for text in texts]
    for block in blocks:
        assert len(block) <= 2
        assert len({lengths[column] for column in block.tolist()}) == 1


def test_bf16_stays_near_and_ties_nothing(scorer: PairScorer, reader: Reader) -> None:
    pool = choose_pool(reader)
    rounded = PairScorer(scorer.backbone, scorer.head, precision="bf16").scores(reader, pool)
    exact = scorer.scores(reader, pool)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.25 * exact.std()
    assert all(len(set(column.tolist())) == 5 for column in rounded.T)


def test_the_whole_set_is_the_pool_by_default(reader: Reader) -> None:
    pool = choose_pool(reader)
    assert pool.first_pairs.tolist() == CAPTIONS_BEFORE[:-1]
    assert pool.captions.tolist() == list(range(11))
    assert pool.image_of_caption.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4]


def test_a_smaller_pool_takes_the_first_images_and_captions(reader: Reader) -> None:
    pool = choose_pool(reader, num_images=4, captions_per_image=2)
    assert pool.first_pairs.tolist() == [0, 2, 5, 6]
    assert pool.captions.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert pool.image_of_caption.tolist() == [0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("num_images", [0, -1, 6])
def test_more_images_than_there_are_or_none_are_refused(reader: Reader, num_images: int) -> None:
    with pytest.raises(InputError, match=f"has 5 images with captions, not {num_images}"):
        choose_pool(reader, num_images=num_images)


@pytest.mark.parametrize("captions", [0, -1])
def test_a_pool_without_captions_is_refused(reader: Reader, captions: int) -> None:
    with pytest.raises(InputError, match=f"{captions} captions an image leave nothing to rank"):
        choose_pool(reader, captions_per_image=captions)


def test_the_pool_does_not_depend_on_how_pairs_lie_in_the_table(reader: Reader) -> None:
    class Shuffled:
        """The same pairs in another order, all that a pool looks at."""

        shards = reader.shards
        layout = torch.randperm(11, generator=rng(0))
        images = reader.images[layout]

    pool = choose_pool(Shuffled())  # type: ignore[arg-type]
    assert torch.equal(Shuffled.images[pool.first_pairs], torch.arange(5))
    assert torch.equal(Shuffled.images[pool.captions], pool.image_of_caption)
    assert sorted(pool.captions.tolist()) == list(range(11))
