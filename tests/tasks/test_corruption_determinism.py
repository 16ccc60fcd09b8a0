"""What is done to a pair depends on its key, the seed and the epoch: not on batch, device or the other tasks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Pairs, a_batch, context, rng, rows
from torch import Tensor

from msp_ds.curriculum import STAGES, Granularity, curriculum
from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.records import Batch
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import replace_images
from msp_ds.tasks.task import Context, corrupt, num_random_regions
from msp_ds.training.assembly.inputs import build_context, open_stage_data
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config

CPU = torch.device("cpu")
OFTEN: dict[str, Any] = {"token_probability": 0.5, "region_probability": 0.3, "ifrs_probability": 0.5}
READINGS: list[dict[str, Any]] = [{}, {"mlm_unit": "word", "ifrs_choice": "stride3", "ifrs_boxes": "move"}]
LENGTHS, COUNTS = (12, 9, 10, 5, 12, 7), (9, 12, 3, 7, 12, 10)

SHOWS = {
    "mlm": ("token_ids", "masked_tokens"),
    "mrfr": ("masked_regions",),
    "moc": ("masked_regions",),
    "ifrs": ("region_order", "shuffled_regions"),
    "titp": (),
    "tits": (),
    "itm_hs": (),
}
"""What the corruption of each task leaves behind, whatever others do to the same batch."""


def corrupted(batch: Batch, names: Sequence[str] = tuple(TASKS), *, epoch: int = 0, **options: Any) -> Batch:
    return corrupt(batch, [TASKS[name] for name in names], context(epoch=epoch, **{**OFTEN, **options}))


def trace(batch: Batch, pair: int, names: Sequence[str] = tuple(TASKS)) -> dict[str, Any]:
    """What was done to one pair, without its padding: fields of the batch and marks, as nested lists."""
    num_tokens, num_regions = int(batch.token_mask[pair].sum()), int(batch.region_mask[pair].sum())
    wanted = {field for name in names for field in SHOWS[name]}
    found = {}
    for field in sorted(wanted):
        values = getattr(batch, field) if hasattr(batch, field) else getattr(batch.corruption, field)
        found[field] = values[pair, : num_tokens if "token" in field else num_regions].tolist()
    if set(names) == set(TASKS):
        found["features"] = batch.features[pair, :num_regions].tolist()
        found["boxes"] = batch.boxes[pair, :num_regions].tolist()
    return found


def clean_batch(**changes: Any) -> Batch:
    return a_batch(LENGTHS, COUNTS, **changes)


def all_traces(batch: Batch) -> list[dict[str, Any]]:
    return [trace(batch, pair) for pair in range(len(batch.keys))]


@pytest.mark.parametrize("reading", READINGS)
def test_a_pair_is_corrupted_alike_wherever_it_stands_and_whoever_stands_beside_it(reading: dict[str, Any]) -> None:
    together = all_traces(corrupted(clean_batch(), **reading))
    for order in ([5, 4, 3, 2, 1, 0], [2], [3, 0], [1, 1, 1], [4, 2, 0]):
        assert all_traces(corrupted(rows(clean_batch(), order), **reading)) == [together[pair] for pair in order]


@pytest.mark.parametrize("reading", READINGS)
def test_corruption_does_not_depend_on_the_padding(reading: dict[str, Any]) -> None:
    tight = all_traces(corrupted(clean_batch(), **reading))
    assert all_traces(corrupted(padded(clean_batch(), num_tokens=31, num_regions=20), **reading)) == tight
    assert all_traces(corrupted(padded(clean_batch(), num_tokens=13, num_regions=12), **reading)) == tight


def padded(batch: Batch, *, num_tokens: int, num_regions: int) -> Batch:
    """The same pairs in more slots."""

    def wider(field: str, size: int, fill: int = 0) -> Tensor:
        values = getattr(batch, field)
        more = values.new_full((len(values), size - values.shape[1], *values.shape[2:]), fill)
        return torch.cat((values, more), dim=1)

    parts = {field: wider(field, num_tokens) for field in ("token_ids", "word_positions", "token_mask")}
    for field in ("features", "boxes", "region_mask", "object_scores", "attribute_scores"):
        parts[field] = wider(field, num_regions)
    for field in ("object_ids", "attribute_ids"):
        parts[field] = wider(field, num_regions, fill=-1)
    return a_batch(LENGTHS, COUNTS, **parts)


@pytest.mark.parametrize("name", [name for name, fields in SHOWS.items() if fields])
def test_corruption_does_not_depend_on_the_other_tasks(name: str) -> None:
    batch = clean_batch()
    alone = [trace(corrupted(batch, [name]), pair, [name]) for pair in range(len(batch.keys))]
    others = [other for other in TASKS if other != name]
    for size in range(1, len(TASKS)):
        for some in itertools.combinations(others, size):
            for names in ([name, *some], [*some, name]):
                made = corrupted(batch, names)
                assert [trace(made, pair, [name]) for pair in range(len(batch.keys))] == alone, names


@pytest.mark.parametrize("names", [["mrfr"], ["moc"], ["ifrs", "mrfr"], ["mlm", "moc", "tits", "itm_hs"]])
def test_masked_features_do_not_depend_on_the_other_tasks(names: list[str]) -> None:
    batch = clean_batch()
    alone, among = corrupted(batch, ["moc"]), corrupted(batch, names)
    hidden = alone.corruption.masked_regions
    assert torch.equal(among.features[hidden], alone.features[hidden])


def test_the_state_of_generators_plays_no_part_and_stays() -> None:
    first = all_traces(corrupted(clean_batch()))
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    assert all_traces(corrupted(clean_batch())) == first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}])
def test_another_epoch_or_seed_changes_the_corruption(change: dict[str, int]) -> None:
    batch = clean_batch()
    one, other = (corrupt(batch, list(TASKS.values()), context(**OFTEN, **more)) for more in ({}, change))
    for field in ("masked_tokens", "masked_regions", "region_order"):
        assert not torch.equal(getattr(one.corruption, field), getattr(other.corruption, field))


def test_masks_do_not_depend_on_the_words_or_the_image() -> None:
    batch = clean_batch()
    other = dataclasses.replace(
        clean_batch(seed=9), keys=batch.keys, token_mask=batch.token_mask, region_mask=batch.region_mask
    )
    assert not torch.equal(batch.token_ids, other.token_ids)
    for field in ("masked_tokens", "masked_regions", "region_order"):
        assert torch.equal(getattr(corrupted(batch).corruption, field), getattr(corrupted(other).corruption, field))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("reading", READINGS)
def test_a_gpu_corrupts_as_the_cpu(reading: dict[str, Any]) -> None:
    ctx = context(**OFTEN, **reading)
    there = dataclasses.replace(ctx, tables=ctx.tables.to("cuda"), feature_mean=ctx.feature_mean.to("cuda"))
    made = corrupt(clean_batch().to("cuda"), list(TASKS.values()), there).to("cpu")
    assert all_traces(made) == all_traces(corrupted(clean_batch(), **reading))


# Which image a sentence gets.

NUM_IMAGES, NUM_PAIRS = 25, 2000
KEYS = torch.randint(2**62, (NUM_PAIRS,), generator=rng(1))
OWN = torch.randint(NUM_IMAGES, (NUM_PAIRS,), generator=rng(2))
HARD_NEGATIVES = (torch.arange(NUM_IMAGES)[:, None] + torch.arange(1, 6)).remainder(NUM_IMAGES).int()


def chosen(order: Tensor, ctx: Context, device: str = "cpu") -> tuple[Tensor, Tensor]:
    table = Pairs(KEYS.to(device), OWN.to(device), NUM_IMAGES, HARD_NEGATIVES.to(device))
    found = replace_images(order.to(device), table, ctx)
    return found.images.cpu(), found.matched.cpu()


@pytest.mark.parametrize("options", [{}, {"itm_hard_probability": 0.5}, {"itm_negatives": "random"}])
def test_the_sampled_image_does_not_depend_on_the_batch(options: dict[str, Any]) -> None:
    whole = chosen(torch.arange(NUM_PAIRS), context(**options))
    for order in (torch.arange(NUM_PAIRS - 1, -1, -7), torch.tensor([3]), torch.tensor([9, 3, 9])):
        for one, all_of_them in zip(chosen(order, context(**options)), whole, strict=True):
            assert torch.equal(one, all_of_them[order])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_chooses_the_images_of_the_cpu() -> None:
    everything = torch.arange(NUM_PAIRS)
    for one, other in zip(chosen(everything, context()), chosen(everything, context(), "cuda"), strict=True):
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def sentences(small_shards: Path) -> tuple[Reader, Context]:
    config = new_config(RunOptions(shards=str(small_shards), curriculum="s"))
    data = open_stage_data(small_shards, curriculum("s")[0])
    return Reader(open_set(small_shards / "sentence" / "train")), build_context(config, data)


def read(sentences: tuple[Reader, Context], names: Sequence[str], pairs: Tensor, **sizes: int) -> Batch:
    """The pairs as a stage of these tasks reads them."""
    reader, ctx = sentences
    part = Granularity(initial="s", name="sentence", tasks=tuple(TASKS[name] for name in names))
    return BatchLoader([part], [reader], ctx, Runtime(rank=0, world_size=1, device=CPU)).read(
        0, pairs, epoch=3, **sizes
    )


@pytest.mark.parametrize("names", [["itm_hs"], ["mlm", "itm_hs"], ["moc", "tits", "itm_hs"], ["itm_hs", "ifrs"]])
def test_the_sampled_image_is_the_same_with_other_tasks(sentences: tuple[Reader, Context], names: list[str]) -> None:
    pairs = torch.arange(0, 60)
    stage, some = read(sentences, [task.name for task in STAGES[2].tasks], pairs), read(sentences, names, pairs)
    assert torch.equal(some.corruption.matched, stage.corruption.matched)
    assert torch.equal(some.features, stage.features)


def test_random_regions_depend_on_neither_the_batch_nor_the_other_tasks(
    sentences: tuple[Reader, Context],
) -> None:
    pairs = torch.arange(0, 60)
    whole = read(sentences, ["mlm", "mrfr", "itm_hs"], pairs)
    assert num_random_regions([TASKS["moc"]]) == whole.random_features.shape[1]
    order = torch.tensor([31, 4, 4, 59])
    some = read(sentences, ["moc"], pairs[order], num_tokens=24)
    assert torch.equal(some.random_features, whole.random_features[order])


def test_dropping_the_task_that_swaps_images_leaves_every_mask(sentences: tuple[Reader, Context]) -> None:
    pairs = torch.arange(0, 60)
    _, ctx = sentences
    ctx = dataclasses.replace(ctx, epoch=3)
    with_swaps, without = (read(sentences, names, pairs) for names in (["mlm", "moc", "itm_hs"], ["mlm", "moc"]))
    assert not torch.equal(with_swaps.features, without.features)
    one, other = (corrupt(batch, [TASKS["mlm"], TASKS["moc"]], ctx) for batch in (with_swaps, without))
    assert torch.equal(one.token_ids, other.token_ids)
    there = with_swaps.region_mask & without.region_mask
    assert torch.equal(one.corruption.masked_regions & there, other.corruption.masked_regions & there)
