"""Batches come in order, read ahead by one thread, and are the same pairs whatever the number of ranks."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from batches import assert_equal, copied, joined, tensors_of
from fake_gpu import DEVICE, FakeGpu, OnGpu

from msp_ds.curriculum import curriculum
from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.batch_buffers import BatchBuffers
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import ShardError
from msp_ds.records import Batch
from msp_ds.tasks.targets import count_targets
from msp_ds.tasks.task import Context, corrupt
from msp_ds.training.assembly.inputs import build_context, open_stage_data
from msp_ds.training.batch_loader import READ_AHEAD, BatchLoader, StepBatch, read_ahead
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config

CPU = torch.device("cpu")


def rank(number: int, *, of: int) -> Runtime:
    return Runtime(rank=number, world_size=of, device=CPU)


def a_loader(shards: Path, spelling: str, runtime: Runtime) -> tuple[BatchLoader, Order]:
    """The loader of a stage of the small world, in global batches of 16."""
    config = new_config(RunOptions(shards=str(shards), curriculum=spelling))
    stage = curriculum(spelling)[0]
    data = open_stage_data(shards, stage)
    readers = [Reader(one) for one in data.train]
    order = Order([reader.keys for reader in readers], seed=config.seed, batch_size=16)
    return BatchLoader(stage.parts, readers, build_context(config, data), runtime), order


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("spelling", ["s", "t+p+s"])
def test_any_number_of_ranks_reads_the_same_global_batches(small_shards: Path, spelling: str, world_size: int) -> None:
    """Ids, masks and features before and after corruption, with length buckets, also from a step within the epoch."""
    alone = global_batches(small_shards, spelling, world_size=1, end=9)
    for start in (0, 5):
        shared = global_batches(small_shards, spelling, world_size=world_size, start=start, end=9)
        for one, other in zip(alone[start:], shared, strict=True):
            assert_equal(one, other)


def test_a_run_continues_exactly_on_other_numbers_of_ranks(small_shards: Path) -> None:
    whole = global_batches(small_shards, "s", world_size=1, end=12)
    pieces = [(8, 0, 3), (2, 3, 4), (4, 4, 10), (1, 10, 12)]
    resumed = [
        batch
        for world_size, start, end in pieces
        for batch in global_batches(small_shards, "s", world_size=world_size, start=start, end=end)
    ]
    for one, other in zip(whole, resumed, strict=True):
        assert_equal(one, other)


def global_batches(shards: Path, spelling: str, *, world_size: int, start: int = 0, end: int) -> list[Batch]:
    """The corrupted batches of all ranks side by side, in steps start to end - 1, each rank with its own loader."""
    ranks = []
    for number in range(world_size):
        loader, _ = a_loader(shards, spelling, rank(number, of=world_size))
        keys, lengths = [one.keys for one in loader.readers], [one.lengths for one in loader.readers]
        order = Order(keys, seed=loader.context.seed, batch_size=16, lengths=lengths)
        ranks.append(
            [
                corrupt(
                    copied(step_batch.micro_batches[0]),
                    step_batch.part.tasks,
                    dataclasses.replace(loader.context, epoch=step_batch.epoch),
                )
                for step_batch in loader.step_batches(order, start=start, end=end, micro_batch=16 // world_size)
            ]
        )
    return [joined(list(parts)) for parts in zip(*ranks, strict=True)]


def step_batches(shards: Path, spelling: str, runtime: Runtime, *, micro_batch: int = 16) -> list[StepBatch]:
    """The first four step batches."""
    loader, order = a_loader(shards, spelling, runtime)
    return list(loader.step_batches(order, start=0, end=4, micro_batch=micro_batch))


def reading_threads() -> int:
    gc.collect()  # loops that other tests left by an exception
    return sum(thread.name.startswith("batch-loader") for thread in threading.enumerate())


def test_results_come_in_order_and_are_read_ahead() -> None:
    steps: list[int] = []

    def read(step: int) -> int:
        time.sleep(0.002 * (step % 2))
        steps.append(step)
        return step * step

    iterator = read_ahead(read, range(8))
    assert next(iterator) == 0
    time.sleep(0.1)
    assert steps == list(range(READ_AHEAD + 1)), "no more than READ_AHEAD may wait"
    assert list(iterator) == [1, 4, 9, 16, 25, 36, 49]


def test_reading_ahead_nothing_yields_nothing() -> None:
    assert list(read_ahead(lambda step: step, range(5, 5))) == []


def test_an_exception_comes_where_its_batch_would_have_come() -> None:
    def read(step: int) -> int:
        if step == 2:
            raise ShardError("tar 2 is damaged")
        return step

    iterator = read_ahead(read, range(10))
    assert [next(iterator), next(iterator)] == [0, 1]
    with pytest.raises(ShardError, match="tar 2 is damaged"):
        next(iterator)
    assert reading_threads() == 0


@pytest.mark.parametrize("leave_after", [1, 3, 10])
def test_the_thread_ends_with_the_iterator(leave_after: int) -> None:
    def partly() -> Iterator[int]:
        for count, value in enumerate(read_ahead(lambda step: step, range(10)), start=1):
            yield value
            if count == leave_after:
                return

    assert list(partly()) == list(range(leave_after))
    assert reading_threads() == 0


def test_step_batches_are_those_of_the_order(small_shards: Path) -> None:
    loader, order = a_loader(small_shards, "t", rank(0, of=1))
    found = list(loader.step_batches(order, start=0, end=6, micro_batch=16))
    assert [step_batch.step for step_batch in found] == list(range(6))
    assert [step_batch.epoch for step_batch in found] == [0, 0, 0, 0, 1, 1]  # 64 pairs make 4 batches
    for step_batch in found:
        expected = loader.readers[0].keys[order.batch(step_batch.step).pairs]
        assert torch.equal(step_batch.micro_batches[0].keys, expected)


class Poisoner(Reader):
    """Overwrites buffers as soon as they may be read into, and reads slowly."""

    def read(self, pairs: torch.Tensor, *, into: BatchBuffers | None = None, **rest: Any) -> Batch:
        for tensor in into.tensors().values() if into else ():
            tensor.fill_(7)
        time.sleep(0.005)
        return super().read(pairs, into=into, **rest)


def poisoned(
    shards: Path, spelling: str, device: torch.device
) -> tuple[BatchLoader, Order, Callable[[StepBatch], None]]:
    """A loader of one rank whose buffers are overwritten early, its order, and a check that a step batch is right."""
    loader, order = a_loader(shards, spelling, Runtime(rank=0, world_size=1, device=device))
    loader.readers = [Poisoner(reader.shards).among(torch.arange(reader.num_images)) for reader in loader.readers]
    fresh, _ = a_loader(shards, spelling, rank(0, of=1))

    def check(step_batch: StepBatch) -> None:
        pairs = order.batch(step_batch.step).pairs
        longest = fresh.readers[0].longest(pairs)
        context = dataclasses.replace(fresh.context, epoch=step_batch.epoch)
        for batch, counts, mine in zip(step_batch.micro_batches, step_batch.padded_counts, pairs.split(8), strict=True):
            expected = fresh.read(0, mine, epoch=step_batch.epoch, num_tokens=longest)
            assert_equal(batch, expected)
            assert counts == (count_targets(expected, step_batch.part.tasks, context) if device.type == "cuda" else {})

    return loader, order, check


def test_a_step_batch_stays_as_it_is_until_the_next_is_requested(small_shards: Path) -> None:
    loader, order, check = poisoned(small_shards, "s", CPU)
    for step_batch in loader.step_batches(order, start=0, end=3 * READ_AHEAD, micro_batch=8):
        time.sleep(0.03)  # the reader is as far ahead as it may be
        check(step_batch)


@pytest.mark.parametrize("spelling", ["t", "s"])
def test_a_gpu_computes_with_the_batches_of_the_cpu(gpu: FakeGpu, small_shards: Path, spelling: str) -> None:
    """However late the copies end; target positions are counted on the host, so that it does not wait for the GPU."""
    loader, order, check = poisoned(small_shards, spelling, DEVICE)
    for step_batch in loader.step_batches(order, start=0, end=3 * READ_AHEAD, micro_batch=8):
        gpu.stream.queue.append(partial(check, step_batch))
        counted = [metric for metrics in step_batch.metrics for metric in metrics.values()]
        tensors = [tensor for value in (*step_batch.micro_batches, *counted) for tensor in tensors_of(value).values()]
        assert all(gpu.used_by[id(tensor)] is gpu.stream for tensor in tensors)
    gpu.stream.synchronize()
    assert gpu.devices == [DEVICE], "the reading thread pins memory through its own rank's GPU"


def test_what_is_on_the_gpu_is_not_copied(gpu: FakeGpu) -> None:
    batch = tiny.a_batch([4, 6], [3, 3])
    batch = dataclasses.replace(batch, features=batch.features.as_subclass(OnGpu))
    assert batch.to(DEVICE).features is batch.features


def test_buffers_are_used_again_after_that(small_shards: Path) -> None:
    loader, order = a_loader(small_shards, "s", rank(0, of=1))
    places = [
        step_batch.micro_batches[0].features.data_ptr()
        for step_batch in loader.step_batches(order, start=0, end=12, micro_batch=16)
    ]
    assert len(set(places)) == READ_AHEAD + 1
    assert places[: READ_AHEAD + 1] * 3 == places


def test_micro_batches_are_the_batch_in_pieces_of_one_length(small_shards: Path) -> None:
    whole, pieces = (step_batches(small_shards, "s", rank(0, of=1), micro_batch=size) for size in (16, 4))
    for one, parts in zip(whole, pieces, strict=True):
        assert [len(part.keys) for part in parts.micro_batches] == [4, 4, 4, 4]
        joined = torch.cat([part.token_ids for part in parts.micro_batches])
        assert torch.equal(joined, one.micro_batches[0].token_ids)


def test_a_mixed_stage_takes_each_batch_from_one_part(small_shards: Path) -> None:
    loader, order = a_loader(small_shards, "t+p+s", rank(0, of=1))
    assert order.batches_per_epoch == 64 // 16 + 91 // 16 + 320 // 16
    counts = dict.fromkeys(("token", "phrase", "sentence"), 0)
    for step_batch in loader.step_batches(order, start=0, end=order.batches_per_epoch, micro_batch=16):
        counts[step_batch.part.name] += 1
        number = loader.parts.index(step_batch.part)
        assert torch.isin(step_batch.micro_batches[0].keys, loader.readers[number].keys).all()
    assert counts == {"token": 4, "phrase": 5, "sentence": 20}


def context_of(shards: Path, spelling: str) -> Context:
    config = new_config(RunOptions(shards=str(shards), curriculum=spelling))
    return build_context(config, open_stage_data(shards, curriculum(spelling)[0]))


def test_half_of_the_sentences_get_the_image_of_a_hard_negative(small_shards: Path) -> None:
    loader, _ = a_loader(small_shards, "s", rank(0, of=1))
    loader.context = dataclasses.replace(
        loader.context, options=dataclasses.replace(loader.context.options, itm_hard_probability=1.0)
    )
    reader = loader.readers[0]
    pairs = torch.arange(len(reader.keys))
    batch = loader.read(0, pairs, epoch=0)
    matched = batch.corruption.matched
    assert 0.4 < matched.float().mean() < 0.6
    own = reader.read(
        pairs, images=reader.images, matched=matched, random_regions=torch.zeros(len(pairs), 0), num_tokens=20
    ).features
    assert torch.equal(batch.features[matched], own[matched])
    hard_negatives = reader.hard_negatives
    assert hard_negatives is not None
    features = {row: torch.from_numpy(reader.record(row).features.copy()) for row in range(reader.num_images)}
    for pair in pairs[~matched].tolist():
        rows = [row for row in hard_negatives[reader.images[pair]].tolist() if row >= 0]
        assert any(torch.equal(batch.features[pair], features[row]) for row in rows)


def test_token_pairs_keep_their_images(small_shards: Path) -> None:
    loader, _ = a_loader(small_shards, "t", rank(0, of=1))
    assert loader.read(0, torch.arange(64), epoch=0).corruption.matched.all()


def test_an_epoch_has_other_images_and_masks_than_the_one_before(small_shards: Path) -> None:
    loader, _ = a_loader(small_shards, "s", rank(0, of=1))
    first, again, second = (loader.read(0, torch.arange(64), epoch=epoch) for epoch in (0, 0, 1))
    assert_equal(first, again)
    assert not torch.equal(first.corruption.matched, second.corruption.matched)
    assert not torch.equal(first.random_features, second.random_features)


def test_damage_reaches_the_loop_with_its_place(small_shards: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_shards, tmp_path / "shards")
    folder = tmp_path / "shards" / "token" / "train"
    one = open_set(folder)
    with one.shard_paths[0].open("r+b") as file:
        file.seek(int(one.offsets[7]) + 100)
        file.write(b"\0" * 40)
    with pytest.raises(ShardError, match=rf"000000.tar, {one.keys[7]} at byte {one.offsets[7]}: .* checksum"):
        step_batches(tmp_path / "shards", "t", rank(0, of=1))
    assert reading_threads() == 0
