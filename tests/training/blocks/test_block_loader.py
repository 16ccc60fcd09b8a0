"""Sets larger than the cache: every pair once an epoch, the same batches for any number of ranks, a bounded cache."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from batches import assert_equal, copied, joined
from block_site import ROOM, Quiet, Site, staged
from file_server import serving

from msp_ds.curriculum import curriculum
from msp_ds.data.loading.block_plan import plan_blocks
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import Reader
from msp_ds.data.remote import blocks as remote_blocks
from msp_ds.data.remote import remote_files
from msp_ds.data.remote.blob_cache import BlobCache
from msp_ds.data.remote.blocks import Blocks, block_source
from msp_ds.data.remote.staging import local_shards
from msp_ds.errors import InputError, ShardError
from msp_ds.records import Batch
from msp_ds.tasks.task import corrupt
from msp_ds.training.assembly.inputs import build_context, open_stage_data
from msp_ds.training.batch_loader import BatchLoader, StepBatch
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config

BATCH = 24
"""Divides the 360 pairs into 15 batches, but not the 60 pairs of a block."""
EPOCH = 360 // BATCH
STAGE = curriculum("s")[0]


@pytest.fixture
def site(twelve_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Behind a server, without pauses."""
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote_blocks, "PAUSE", 0.01)
    with staged(twelve_tars, tmp_path / "cache") as site:
        yield site


@contextmanager
def opened(site: Site, *, rank: int = 0, of: int = 1, **options: object) -> Iterator[tuple[BatchLoader, Order]]:
    """The loader of one rank, and the order that it reads in."""
    config = new_config(RunOptions(shards=str(site.folder), curriculum="s"))
    data = open_stage_data(site.folder, STAGE)
    source = block_source(data.train)
    assert source is not None
    plan = plan_blocks(data.train, limit=source.limit, kept=source.kept, seed=config.seed, batch_size=BATCH)
    assert plan.num_blocks == 6
    readers = [Reader(one) for one in data.train]
    keys, lengths = [one.keys for one in readers], [one.lengths for one in readers]
    order = Order(keys, seed=config.seed, batch_size=BATCH, lengths=lengths, blocks=plan.pairs)
    context = build_context(config, data)
    context = dataclasses.replace(context, options=dataclasses.replace(context.options, **options))
    runtime = Runtime(rank=rank, world_size=of, device=torch.device("cpu"))
    loader = BatchLoader(STAGE.parts, readers, context, runtime, Blocks(plan, readers, source))
    try:
        yield loader, order
    finally:
        loader.close()


def corrupted(loader: BatchLoader, step_batch: StepBatch) -> Batch:
    context = dataclasses.replace(loader.context, epoch=step_batch.epoch)
    return corrupt(copied(joined(list(step_batch.micro_batches))), step_batch.part.tasks, context)


def rank_batches(
    site: Site, start: int, end: int, *, rank: int = 0, of: int = 1, each: Callable[[], object] = lambda: None
) -> list[Batch]:
    """What a rank makes of steps start to end - 1; each() is called after each step batch."""
    found = []
    with opened(site, rank=rank, of=of) as (loader, order):
        for step_batch in loader.step_batches(order, start=start, end=end, micro_batch=BATCH // of // 2):
            site.look()
            found.append(corrupted(loader, step_batch))
            each()
    return found


def global_batches(site: Site, start: int, end: int, *, world_size: int) -> list[Batch]:
    """What all ranks make of them, side by side, one rank after the other."""
    ranks = [rank_batches(site, start, end, rank=rank, of=world_size) for rank in range(world_size)]
    return [joined(list(parts)) for parts in zip(*ranks, strict=True)]


def test_every_pair_comes_once_an_epoch_and_every_tar_once(site: Site) -> None:
    batches = rank_batches(site, 0, 2 * EPOCH)
    for epoch in range(2):
        keys = torch.cat([batch.keys for batch in batches[epoch * EPOCH : (epoch + 1) * EPOCH]])
        assert len(keys) == len(keys.unique()) == 360
    requested = site.requested_tars()
    assert sorted(set(requested)) == [f"{number:06d}" for number in range(12)]
    assert len(requested[:12]) == len(set(requested[:12])), "in the first epoch nothing is fetched twice"
    assert 12 < len(requested) <= 24


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_ranks_makes_the_same_global_batches(site: Site, world_size: int) -> None:
    alone = global_batches(site, 0, EPOCH + 4, world_size=1)
    shared = global_batches(site, 0, EPOCH + 4, world_size=world_size)
    for one, other in zip(alone, shared, strict=True):
        assert_equal(one, other)


def test_a_run_continues_exactly_within_its_second_block(site: Site) -> None:
    whole = global_batches(site, 0, EPOCH + 2, world_size=1)
    with opened(site) as (_, order):
        assert [order.batch(step).blocks for step in range(6)] == [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (2, 2)]
    for start, world_size in ((4, 2), (3, 1), (2, 4)):
        resumed = global_batches(site, start, EPOCH + 2, world_size=world_size)
        for one, other in zip(whole[start:], resumed, strict=True):
            assert_equal(one, other)


def test_ranks_beside_each_other_fetch_each_tar_once(site: Site) -> None:
    together, alone = threading.Barrier(2), rank_batches(site, 0, EPOCH)
    site.server.requests.clear()
    found: dict[int, list[Batch]] = {}

    def run(rank: int) -> None:
        try:
            found[rank] = rank_batches(site, 0, EPOCH, rank=rank, of=2, each=lambda: together.wait(20))
        except BaseException:
            together.abort()
            raise

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    for one, parts in zip(alone, zip(found[0], found[1], strict=True), strict=True):
        assert_equal(one, joined(list(parts)))
    assert len(site.requested_tars()) == len(set(site.requested_tars())) <= 12


def later_tar(site: Site, block: int) -> str:
    """The address of a tar of a block of the first epoch."""
    with opened(site) as (loader, _):
        assert loader.blocks is not None
        tar = int(loader.blocks.plan.tars(0, block)[0][0])
    return f"/sentence/train/{tar:06d}.tar"


def until_fault(site: Site) -> tuple[list[Batch], str]:
    """The batches that come before an error, and the error."""
    found: list[Batch] = []
    with opened(site) as (loader, order), pytest.raises(InputError) as fault:
        found.extend(
            corrupted(loader, step_batch)
            for step_batch in loader.step_batches(order, start=0, end=EPOCH, micro_batch=BATCH)
        )
    assert isinstance(fault.value, ShardError)
    return found, str(fault.value)


@pytest.mark.parametrize("fault", ["cut", "shorter", "other bytes", "another shard"])
def test_a_block_that_cannot_be_had_ends_the_batches_where_it_begins_and_later_they_go_on(
    site: Site, fault: str
) -> None:
    # Steps 0 to 6 need blocks 0 to 2, step 7 begins in block 2 and ends in block 3.
    whole, tar = rank_batches(site, 0, EPOCH), later_tar(site, 3)
    BlobCache(site.cache, limit=0).evict_beside({})
    looked, cut = site.server.change, site.server.cut
    other = (site.server.folder / later_tar(site, 4).lstrip("/")).read_bytes()
    wrong: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda data: data,
        "shorter": lambda data: data[:-512],
        "other bytes": lambda data: data[:700] + b"\x01" + data[701:],
        "another shard": lambda data: other,
    }
    site.server.cut = lambda path, start: 300 if path == tar and fault == "cut" else None
    site.server.change = lambda path, data: wrong[fault](looked(path, data)) if path == tar else looked(path, data)
    found, message = until_fault(site)
    assert f"{site.server.address}{tar} " in message
    assert "\n" not in message
    assert len(found) == 7
    site.server.change, site.server.cut = looked, cut
    for one, other_one in zip(whole, [*found, *rank_batches(site, len(found), EPOCH)], strict=True):
        assert_equal(one, other_one)


def test_a_tar_that_went_from_the_server_is_named(site: Site) -> None:
    site.look()
    site.server.folder = site.server.folder / "sentence"
    found, message = until_fault(site)
    assert not found
    assert f"{site.server.address}/sentence/train/" in message
    assert message.endswith(".tar is missing, though the index lists it; upload it again")


def test_what_fails_in_the_background_is_tried_again_when_it_is_needed(site: Site) -> None:
    """The server is away while block 3 is fetched, and back when block 2 has been trained on."""
    whole = rank_batches(site, 0, EPOCH)
    BlobCache(site.cache, limit=0).evict_beside({})
    tar, tries, found = later_tar(site, 3), [], []

    def cut(path: str, start: int) -> int | None:
        tries.extend([path] if path == tar else [])
        return 300 if path == tar and len(tries) <= remote_files.ATTEMPTS else None

    site.server.cut = cut
    with opened(site) as (loader, order):
        for step_batch in loader.step_batches(order, start=0, end=EPOCH, micro_batch=BATCH):
            found.append(corrupted(loader, step_batch))
            while step_batch.step == 6 and not loader.blocks._coming[0, 3].done():
                pass
    assert len(tries) == remote_files.ATTEMPTS + 1
    for one, other in zip(whole, found, strict=True):
        assert_equal(one, other)


def test_images_are_sampled_from_the_local_blocks(site: Site, twelve_tars: Path) -> None:
    """Rows and the metric are worked out pair by pair from the random numbers."""
    local = Reader(open_stage_data(twelve_tars, STAGE).train[0])
    features = [torch.from_numpy(local.record(row).features.copy()) for row in range(72)]
    hard_negatives = local.hard_negatives
    assert hard_negatives is not None
    replaced_by = {"itself": 0, "next": 0, "random": 0}
    with opened(site, itm_hard_probability=0.9) as (loader, order):
        for step_batch in loader.step_batches(order, start=0, end=EPOCH, micro_batch=BATCH):
            whole, batch = order.batch(step_batch.step), step_batch.micro_batches[0]
            plan = loader.blocks.plan
            tars = {tar for block in set(whole.blocks) for tar in plan.tars(0, block)[0].tolist()}
            here = [row for row in range(72) if local.shards.shard_of[row] in tars]
            assert len(here) == 12 * len(set(whole.blocks))
            regions_here = {tuple(region.tolist()) for row in here for region in features[row]}
            wanted = found = 0
            for place, pair in enumerate(whole.pairs.tolist()):
                own = int(local.images[pair])
                fate, hard, other, is_hard = loader.context.draw(local.keys[pair : pair + 1], "image", 4)[0]
                row = own
                if fate < 0.5:
                    others = [one for one in here if one != own]
                    row, how = others[int(other * len(others))], "random"
                    list_of = [one for one in hard_negatives[own].tolist() if one >= 0]
                    if is_hard < 0.9 and list_of:
                        first = int(hard * len(list_of))
                        turned = [one for one in list_of[first:] + list_of[:first] if one in here]
                        wanted, found = wanted + 1, found + (list_of[first] in here)
                        if turned:
                            row, how = turned[0], "itself" if turned[0] == list_of[first] else "next"
                    replaced_by[how] += 1
                assert bool(batch.corruption.matched[place]) == (row == own)
                assert torch.equal(batch.features[place, : len(features[row])], features[row])
                assert {tuple(feature.tolist()) for feature in batch.random_features[place]} <= regions_here
            metric = step_batch.metrics[0]["data/local_hard_negative_ratio"]
            assert (float(metric.total), float(metric.count)) == (found, wanted)
    assert all(replaced_by.values()), replaced_by


def test_shards_that_fit_come_whole_and_are_read_as_they_always_were(twelve_tars: Path, tmp_path: Path) -> None:
    with serving(twelve_tars) as server:
        how = {"cache": tmp_path / "cache", "limit_gb": 1.0, "progress": Quiet()}
        with local_shards(server.address, ["sentence"], **how) as folder:
            data = open_stage_data(folder, STAGE)
            assert block_source(data.train) is None
            assert not data.train[0].comes_by_block


def test_nothing_stays_in_use_after_the_loader_is_closed(site: Site) -> None:
    with opened(site) as (loader, order):
        next(iter(loader.step_batches(order, start=0, end=EPOCH, micro_batch=BATCH)))
        assert BlobCache(site.cache, limit=site.limit).evict_beside({"more": ROOM}) > 0
    assert BlobCache(site.cache, limit=site.limit).evict_beside({"more": ROOM}) == 0
    site.look()
