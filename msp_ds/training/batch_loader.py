"""The way of a batch from the shards to the device, read ahead in the background."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from msp_ds.curriculum import Granularity
from msp_ds.data.loading.batch_buffers import BatchBuffers
from msp_ds.data.loading.order import GlobalBatch, Order, rank_slice
from msp_ds.data.loading.reader import Reader
from msp_ds.data.remote.blocks import Blocks
from msp_ds.records import Batch, MeanMetric, record_stream
from msp_ds.stateless_random import RANDOM_REGION
from msp_ds.tasks.targets import count_targets
from msp_ds.tasks.task import Context, num_random_regions, pair_sampler
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.pretraining_model import NOT_COUNTED

T = TypeVar("T")

READ_AHEAD = 3
"""Batches that wait in memory."""


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """What one rank trains on in one optimiser step."""

    step: int
    epoch: int
    part: Granularity
    micro_batches: tuple[Batch, ...]
    """One a forward pass, on the rank's device."""
    metrics: tuple[Mapping[str, MeanMetric], ...]
    """What there is to know of each micro batch's images, on the rank's device too."""
    padded_counts: tuple[Mapping[str, int], ...]
    """For each micro batch, the lengths of its padded lists of targets (tasks/targets.py); empty on a CPU."""
    copied: torch.cuda.Event | None = None
    """On a GPU: when the copies to it have ended, which a stream of their own makes while others compute."""

    def received(self) -> StepBatch:
        """The same for the stream that computes: its work waits for the copies, this thread does not."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.micro_batches[0].keys.device)
            stream.wait_event(self.copied)
            for batch in self.micro_batches:
                record_stream(batch, stream)
            for metric in (metric for some in self.metrics for metric in some.values()):
                record_stream(metric, stream)
        return self


class Ring:
    """The memory of READ_AHEAD + 1 portions, whose turns go round.

    StepBatch k + READ_AHEAD + 1 is read into the memory of portion k. `read_ahead` starts on it only when the consumer
    asks for portion k + 1, so that a portion is the consumer's until it asks for the next, and no longer. On a GPU the
    copy to the device must also have ended, which the slot's event tells.
    """

    def __init__(self, makers: Sequence[Callable[[], BatchBuffers]], *, device: torch.device) -> None:
        """makers: for each part, what gives the memory of one portion."""
        self._makers = makers
        self._device = device
        self._slots: list[dict[int, BatchBuffers]] = [{} for _ in range(READ_AHEAD + 1)]
        self._copied: dict[int, torch.cuda.Event] = {}

    def take(self, step: int, part: int) -> BatchBuffers:
        """The memory of a step's portion, from now on its alone."""
        number = step % len(self._slots)
        if number in self._copied:
            self._copied.pop(number).synchronize()
        slot = self._slots[number]
        if part not in slot:
            slot[part] = self._makers[part]()
        return slot[part]

    def sent(self, step: int) -> torch.cuda.Event | None:
        """The copies of a step's portion to the device have been queued; on a GPU, what tells their end."""
        if self._device.type != "cuda":
            return None
        event: torch.cuda.Event = torch.cuda.current_stream(self._device).record_event()
        self._copied[step % len(self._slots)] = event
        return event


class BatchLoader:
    """Reads the portions of one rank in the order of the stage."""

    def __init__(
        self,
        parts: Sequence[Granularity],
        readers: Sequence[Reader],
        context: Context,
        runtime: Runtime,
        blocks: Blocks | None = None,
    ) -> None:
        """blocks: where the parts' tars come block by block."""
        self.parts = parts
        self.readers = readers
        self.context = context
        self.runtime = runtime
        self.blocks = blocks
        self.counts_targets = runtime.device.type == "cuda"
        """Whether to count beforehand what a batch is asked about, so that nobody waits for the device."""

    def step_batches(
        self, order: Order, *, start: int, end: int, micro_batch: int, await_blocks: Callable[[int], None] | None = None
    ) -> Iterator[StepBatch]:
        """The portions of steps start to end - 1, read ahead by a thread of their own, but not beyond their blocks.

        On the CPU a portion's features live in memory that is reused: use it before asking for the next.
        await_blocks(step) returns when the blocks of a step are ready; by default it waits for this rank's alone.
        """
        ranks = self.runtime.world_size
        size = order.batch_size // ranks
        ring = Ring([partial(self._memory, part, size) for part in range(len(self.parts))], device=self.runtime.device)

        def read(step: int) -> StepBatch:
            whole = order.batch(step)
            num_tokens = self.readers[whole.part].longest(whole.pairs)
            mine = rank_slice(whole.pairs, rank=self.runtime.rank, world_size=ranks)
            memory, rows = ring.take(step, whole.part), pair_sampler(self.parts[whole.part].tasks).rows
            found = [
                self._read(
                    self._reader_of(whole),
                    whole.part,
                    mine[first : first + micro_batch],
                    epoch=whole.epoch,
                    num_tokens=num_tokens,
                    into=memory.rows(first * rows, (first + micro_batch) * rows),
                )
                for first in range(0, len(mine), micro_batch)
            ]
            batches, metrics, padded_counts = zip(*found, strict=True)
            return StepBatch(
                step=step,
                epoch=whole.epoch,
                part=self.parts[whole.part],
                micro_batches=batches,
                metrics=metrics,
                padded_counts=padded_counts,
                copied=ring.sent(step),
            )

        # While the blocks change no thread reads.
        for section, following in pairwise(chain(order.sections(start, end), [None])):
            if self.blocks is not None and section:
                self.blocks.enter(order.batch(section[0]), order.batch(following[0]) if following else None)
                (await_blocks or self._await_own_blocks)(section[0])
            with closing(read_ahead(read, section or (), device=self.runtime.device)) as coming:
                for step_batch in coming:
                    yield step_batch.received()

    def _memory(self, part: int, size: int) -> BatchBuffers:
        """Room for a portion of `size` pairs of a part."""
        tasks, pinned = self.parts[part].tasks, self.runtime.device.type == "cuda"
        rows = size * pair_sampler(tasks).rows
        return self.readers[part].buffers(rows, num_random_regions=num_random_regions(tasks), pinned=pinned)

    def read(
        self,
        part: int,
        pairs: Tensor,
        *,
        epoch: int,
        num_tokens: int | None = None,
        into: BatchBuffers | None = None,
    ) -> Batch:
        """The clean batch of `pairs` (int64 [B]) of one part: which text meets which image is up to the part's tasks.

        num_tokens: text slots at least. into: as for Reader.read.
        """
        return self._read(self.readers[part], part, pairs, epoch=epoch, num_tokens=num_tokens, into=into)[0]

    def _read(
        self,
        reader: Reader,
        part: int,
        pairs: Tensor,
        *,
        epoch: int,
        num_tokens: int | None = None,
        into: BatchBuffers | None = None,
    ) -> tuple[Batch, Mapping[str, MeanMetric], Mapping[str, int]]:
        """Return the batch, metrics of its images and its padded counts. reader: the part's, perhaps of some images."""
        tasks = self.parts[part].tasks
        context = dataclasses.replace(self.context, epoch=epoch)
        chosen = pair_sampler(tasks).choose(pairs, reader, context)
        random_regions = context.draw(reader.keys[chosen.pairs], RANDOM_REGION, 2 * num_random_regions(tasks))
        batch = reader.read(
            chosen.pairs,
            images=chosen.images,
            matched=chosen.matched,
            random_regions=random_regions,
            num_tokens=max(num_tokens or 0, reader.longest(chosen.pairs)),  # other texts may be longer
            into=into,
        )
        device = self.runtime.device
        metrics = {name: metric.to(device) for name, metric in chosen.metrics.items()}
        padded_counts = count_targets(batch, tasks, context) if self.counts_targets else NOT_COUNTED
        return batch.to(device), metrics, padded_counts

    def _reader_of(self, batch: GlobalBatch) -> Reader:
        reader = self.readers[batch.part]
        return reader if self.blocks is None else reader.among(self.blocks.images(batch))

    def close(self) -> None:
        """Let go of the blocks."""
        if self.blocks is not None:
            self.blocks.close()

    def _await_own_blocks(self, step: int) -> None:
        if self.blocks is not None:
            self.blocks.wait()


def read_ahead(
    read: Callable[[int], T], steps: Iterable[int], *, device: torch.device | None = None
) -> Generator[T, None, None]:
    """read(step) for each step in order, up to READ_AHEAD of them early, in a thread that ends with the iterator."""
    waiting: deque[Future[T]] = deque()
    coming = iter(steps)
    pool = ThreadPoolExecutor(1, thread_name_prefix="feed", initializer=_settle, initargs=(device,))
    try:
        waiting.extend(pool.submit(read, step) for step in islice(coming, READ_AHEAD))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(read, step) for step in islice(coming, 1))
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)


def _settle(device: torch.device | None) -> None:
    """A new thread's GPU is the first, through which every rank would pin its memory, and its stream everyone's."""
    if device is not None and device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
