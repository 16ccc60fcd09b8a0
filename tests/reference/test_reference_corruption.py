"""Corruption keeps every rule of the paper in 200 random batches, and asks about the pair that is really fed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference.comparison import examples
from reference.corruption_rules import broken_rules, fates_of_regions, fates_of_tokens
from tiny import Pairs, a_batch, context
from torch import Tensor

from msp_ds.curriculum import curriculum
from msp_ds.data.loading.reader import Reader
from msp_ds.records import Batch
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import replace_images
from msp_ds.tasks.task import Context, corrupt
from msp_ds.tasks.topics import topic_targets
from msp_ds.training.assembly.inputs import build_context, open_stage_data
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config


def test_corruption_breaks_no_rule() -> None:
    num_triplets = 0
    for number, example in enumerate(examples()):
        assert broken_rules(example.clean, example.corrupted, example.context.options) == [], f"batch {number}"
        num_triplets += int(example.corrupted.corruption.shuffled_regions.sum()) // 3
    assert num_triplets > 100


def changed_marks(batch: Batch, **corruption: Tensor) -> Batch:
    return dataclasses.replace(batch, corruption=dataclasses.replace(batch.corruption, **corruption))


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("masked_tokens", "no word and masked"),
        ("masked_regions", "holds neither nothing"),
        ("shuffled_regions", "is as it was"),
    ],
)
def test_the_rules_notice_a_wrong_mark(field: str, fault: str) -> None:
    clean = a_batch((5,), (6,))
    everything = torch.ones_like(getattr(clean.corruption, field))
    wrong = changed_marks(dataclasses.replace(clean, features=clean.features + 1), **{field: everything})
    assert any(fault in text for text in broken_rules(clean, wrong, context().options))


def test_probabilities_one_and_zero_mask_everything_and_nothing() -> None:
    for example in examples():
        tokens, regions = (fates(example.clean, example.corrupted) for fates in (fates_of_tokens, fates_of_regions))
        for counts in (tokens, regions):
            if example.kind == "everything masked":
                assert counts["masked"] == counts["there"]
            if example.kind == "nothing masked":
                assert counts["masked"] == 0


def fraction(part: int, whole: int) -> tuple[float, float]:
    """A fraction and four of its standard errors."""
    value = part / whole
    return value, 4 * (value * (1 - value) / whole) ** 0.5


@pytest.mark.parametrize("fates", [fates_of_tokens, fates_of_regions])
def test_fifteen_percent_are_masked_and_of_those_80_10_10(fates: Callable[[Batch, Batch], Counter[str]]) -> None:
    size, num_pieces = 1500, 12
    clean = a_batch([num_pieces] * size, [10] * size)
    corrupted = corrupt(clean, list(TASKS.values()), context())
    counts = fates(clean, corrupted)
    # A random piece is [MASK] or the old one, each in one of twenty cases.
    lost = 0.1 / 20 if fates is fates_of_tokens else 0.0
    for name, wanted, whole in (
        ("masked", 0.15, "there"),
        ("hidden", 0.8 + lost, "masked"),
        ("kept", 0.1 + lost, "masked"),
        ("replaced", 0.1 - 2 * lost, "masked"),
    ):
        value, error = fraction(counts[name], counts[whole])
        assert value == pytest.approx(wanted, abs=error), name


@pytest.mark.parametrize("negatives", ["hard", "random"])
@pytest.mark.parametrize("skipped", [0, 2])
def test_a_text_gets_its_own_image_a_hard_negative_or_else_any_other(negatives: str, skipped: int) -> None:
    num_images, size = 9, 3000
    rows = [[(image + step) % num_images for step in range(1, 5)] for image in range(num_images)]
    rows[0], rows[1] = [-1] * 4, [5, -1, -1, -1]
    own = [number % num_images for number in range(size)]
    ctx = context(itm_negatives=negatives, itm_skip_nearest=skipped)
    table = Pairs(torch.arange(size), torch.tensor(own), num_images, torch.tensor(rows))
    chosen = replace_images(torch.arange(size), table, ctx)
    found, matched = chosen.images, chosen.matched
    met: dict[int, set[int]] = {image: set() for image in range(num_images)}
    for mine, replacement, is_own in zip(own, found.tolist(), matched.tolist(), strict=True):
        assert is_own == (replacement == mine)
        if not is_own:
            met[mine].add(replacement)
    for image, replacements in met.items():
        near = {row for row in rows[image][skipped:] if row >= 0}
        others = set(range(num_images)) - {image}
        assert replacements == (near if near and negatives == "hard" else others)
    assert sum(matched.tolist()) / size == pytest.approx(0.5, abs=4 * 0.5 / size**0.5)


@pytest.fixture(scope="module")
def fed(small_shards: Path) -> tuple[Batch, Reader, Context, Tensor]:
    """Sentences of the small world with half of their images replaced: batch, reader, context, the pairs' rows."""
    config = new_config(RunOptions(shards=str(small_shards), curriculum="s"))
    (stage,) = curriculum("s")
    data = open_stage_data(small_shards, stage)
    reader = Reader(data.train[0])
    alone = Runtime(rank=0, world_size=1, device=torch.device("cpu"))
    ctx = build_context(config, data)
    pairs = torch.arange(0, len(reader.keys), 3)
    return BatchLoader(stage.parts, [reader], ctx, alone).read(0, pairs, epoch=0), reader, ctx, pairs


def test_targets_are_those_of_the_image_that_is_fed(fed: tuple[Batch, Reader, Context, Tensor]) -> None:
    batch, reader, ctx, pairs = fed
    found = replace_images(pairs, reader, dataclasses.replace(ctx, epoch=0))
    assert batch.corruption.matched.equal(found.matched)
    assert 0.25 < found.matched.double().mean() < 0.75
    for place, row in enumerate(found.images.tolist()):
        record = reader.record(row)
        count = len(record.object_ids)
        assert batch.features[place, :count].numpy().tobytes() == record.features.tobytes()
        assert batch.object_ids[place, :count].tolist() == record.object_ids.tolist()
        assert batch.attribute_ids[place, :count].tolist() == record.attribute_ids.tolist()


def test_topics_are_those_of_the_pair_that_is_fed(fed: tuple[Batch, Reader, Context, Tensor]) -> None:
    batch, _, ctx, _ = fed
    targets = topic_targets(batch, ctx, attributes=False)
    names, special = ctx.tables.object_pieces.tolist(), (ctx.tables.cls_id, ctx.tables.sep_id)
    counts: dict[bool, list[int]] = {True: [], False: []}
    for place, matched in enumerate(batch.corruption.matched.tolist()):
        text = {piece for piece in batch.token_ids[place][batch.token_mask[place]].tolist() if piece not in special}
        seen = {piece for label in batch.object_ids[place].tolist() if label >= 0 for piece in names[label]}
        assert sorted(targets.pieces[place][targets.wanted[place]].tolist()) == sorted(text & seen)
        counts[matched].append(len(text & seen))
    # What the text says is in its own image, and seldom in another: topics tell matching pairs.
    assert sum(counts[True]) / len(counts[True]) > 1.3 * sum(counts[False]) / len(counts[False])
