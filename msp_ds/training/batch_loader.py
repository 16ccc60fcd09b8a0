"""Batches of a rank from the shards to its device, read ahead in a background thread."""

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, pairwise
from typing import Self, TypeVar

import torch
from torch import Tensor

from msp_ds.curriculum import Granularity
from msp_ds.data.loading.batch_buffers import BatchBuffers
from msp_ds.data.loading.order import GlobalBatch, Order, rank_slice
from msp_ds.data.loading.reader import Reader
from msp_ds.data.remote.blocks import Blocks
from msp_ds.records import Batch, Losses, MeanMetric, record_stream
from msp_ds.stateless_random import RANDOM_REGION
from msp_ds.tasks.targets import count_targets
from msp_ds.tasks.task import Context, num_random_regions, pair_sampler
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.pretraining_model import NOT_COUNTED

T = TypeVar("T")

READ_AHEAD = 3
"""Step batches that wait in memory: reading a batch takes longer at times than a step, as when a tar is opened."""


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """What one rank trains on in one optimiser step."""

    step: int
    """Counted from 0 over the stage."""
    epoch: int
    part: Granularity
    micro_batches: tuple[Batch, ...]
    """One per forward pass, on the rank's device."""
    metrics: tuple[Mapping[str, MeanMetric], ...]
    """Metrics of each micro batch's choice of images, on the rank's device."""
    padded_counts: tuple[Mapping[str, int], ...]
    """tasks.targets.count_targets of each micro batch; empty on a CPU."""
    copied: torch.cuda.Event | None = None
    """On a GPU: recorded after the copies to the device, which run on a stream of their own."""

    def score(self, model: Callable[..., Losses], number: int) -> Losses:
        """Return the losses that `model`, a PretrainingModel or an engine around one, has on micro batch `number`."""
        return model(self.micro_batches[number], self.part.tasks, self.epoch, self.padded_counts[number])

    def received(self) -> Self:
        """Return the same for the stream that computes: the stream waits for the copies, this thread does not."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.micro_batches[0].keys.device)
            stream.wait_event(self.copied)
            # Memory that one stream allocated and another uses must not be given away before the other has used it.
            for batch in self.micro_batches:
                record_stream(batch, stream)
            for metric in (metric for some in self.metrics for metric in some.values()):
                record_stream(metric, stream)
        return self


class BufferRing:
    """Buffers of READ_AHEAD + 1 step batches, which are used in turn.

    Allocating them for each batch would cost page faults, and pinning memory is slow. Step k + READ_AHEAD + 1 is read
    into the buffers of step k. `read_ahead` starts on it only when the consumer asks for step k + 1, so the consumer
    may use a step batch until it asks for the next. On a GPU the copy of step k must also have ended.
    """

    def __init__(self, allocate: Callable[[int], BatchBuffers], *, device: torch.device) -> None:
        """allocate: returns new buffers for one step batch of a granularity, by its number."""
        self._allocate = allocate
        self._device = device
        self._slots: list[dict[int, BatchBuffers]] = [{} for _ in range(READ_AHEAD + 1)]
        self._copied: dict[int, torch.cuda.Event] = {}

    def acquire(self, step: int, part: int) -> BatchBuffers:
        """Return the buffers for a step; waits until a GPU has copied what they held before."""
        number = step % len(self._slots)
        if number in self._copied:
            self._copied.pop(number).synchronize()
        slot = self._slots[number]
        if part not in slot:
            slot[part] = self._allocate(part)
        return slot[part]

    def record_copies(self, step: int) -> torch.cuda.Event | None:
        """Note that the copies of a step to the device are queued; return the event that follows them, on a GPU."""
        if self._device.type != "cuda":
            return None
        event: torch.cuda.Event = torch.cuda.current_stream(self._device).record_event()
        self._copied[step % len(self._slots)] = event
        return event


@dataclass(eq=False)
class BatchLoader:
    """Reads the step batches of one rank in the order of the stage."""

    parts: Sequence[Granularity]
    readers: Sequence[Reader]  # one per granularity
    context: Context
    runtime: Runtime
    blocks: Blocks | None = None  # fetches shards block by block; None for shards that are all here

    @property
    def num_blocks(self) -> int:
        """Blocks in which an epoch's shards are fetched; 1 when they are all here."""
        return 1 if self.blocks is None else self.blocks.plan.num_blocks

    def step_batches(
        self,
        order: Order,
        *,
        start: int,
        end: int,
        micro_batch: int,
        await_blocks: Callable[[Blocks, int], None] = lambda blocks, step: blocks.wait(),
    ) -> Iterator[StepBatch]:
        """Yield the step batches of steps start to end - 1.

        They are read ahead in a thread of their own, so that training does not wait for the disk. On a CPU the
        features lie in memory that is used again: use a step batch before asking for the next.

        await_blocks: called with the first step of each block; returns when the block is here. By default a rank waits
        for its own blocks alone.
        """
        allocate = partial(self._allocate, num_pairs=order.batch_size // self.runtime.world_size)
        ring = BufferRing(allocate, device=self.runtime.device)

        def read(step: int) -> StepBatch:
            return self._read_step(order.batch(step), step, ring, micro_batch=micro_batch)

        # Reading ahead stops at the end of a block and starts again with the next: `enter` closes the tars of blocks
        # that are done with, which no thread may be reading then.
        for section, following in pairwise(chain(order.sections(start, end), [None])):
            if self.blocks is not None and section:
                self.blocks.enter(order.batch(section[0]), order.batch(following[0]) if following else None)
                await_blocks(self.blocks, section[0])
            with closing(read_ahead(read, section or (), device=self.runtime.device)) as coming:
                for step_batch in coming:
                    yield step_batch.received()

    def _read_step(self, whole: GlobalBatch, step: int, ring: BufferRing, *, micro_batch: int) -> StepBatch:
        """Read this rank's slice of a global batch in micro batches."""
        part, reader = self.parts[whole.part], self.readers[whole.part]
        # All micro batches of all ranks are padded to the longest text of the global batch, so that what is computed
        # does not depend on how the batch is cut.
        num_tokens = reader.longest(whole.pairs)
        pairs = rank_slice(whole.pairs, rank=self.runtime.rank, world_size=self.runtime.world_size)
        if self.blocks is not None:
            reader = reader.among(self.blocks.images(whole))
        buffers, rows = ring.acquire(step, whole.part), pair_sampler(part.tasks).rows
        read = [
            self._read(
                reader,
                whole.part,
                pairs[first : first + micro_batch],
                epoch=whole.epoch,
                num_tokens=num_tokens,
                into=buffers.rows(first * rows, (first + micro_batch) * rows),
            )
            for first in range(0, len(pairs), micro_batch)
        ]
        batches, metrics, padded_counts = zip(*read, strict=True)
        return StepBatch(
            step=step,
            epoch=whole.epoch,
            part=part,
            micro_batches=batches,
            metrics=metrics,
            padded_counts=padded_counts,
            copied=ring.record_copies(step),
        )

    def _allocate(self, part: int, num_pairs: int) -> BatchBuffers:
        tasks, pinned = self.parts[part].tasks, self.runtime.device.type == "cuda"
        rows = num_pairs * pair_sampler(tasks).rows
        return self.readers[part].buffers(rows, num_random_regions=num_random_regions(tasks), pinned=pinned)

    def read(self, part: int, pairs: Tensor, *, epoch: int, num_tokens: int = 0) -> Batch:
        """Return the clean batch of `pairs` (int64 [B]) of one granularity, with the images that its tasks choose.

        num_tokens: least number of text slots.
        """
        return self._read(self.readers[part], part, pairs, epoch=epoch, num_tokens=num_tokens)[0]

    def _read(
        self, reader: Reader, part: int, pairs: Tensor, *, epoch: int, num_tokens: int, into: BatchBuffers | None = None
    ) -> tuple[Batch, Mapping[str, MeanMetric], Mapping[str, int]]:
        """Return a clean batch, metrics of the choice of its images, and its padded counts.

        reader: that of the granularity, perhaps restricted to some images.
        """
        tasks, device = self.parts[part].tasks, self.runtime.device
        context = dataclasses.replace(self.context, epoch=epoch)
        chosen = pair_sampler(tasks).choose(pairs, reader, context)
        random_regions = context.draw(reader.keys[chosen.pairs], RANDOM_REGION, 2 * num_random_regions(tasks))
        batch = reader.read(
            chosen.pairs,
            images=chosen.images,
            matched=chosen.matched,
            random_regions=random_regions,
            num_tokens=max(num_tokens, reader.longest(chosen.pairs)),  # other texts may be longer
            into=into,
        )
        metrics = {name: metric.to(device) for name, metric in chosen.metrics.items()}
        # Counted here, on the host, since the training thread would have to wait for the GPU to know.
        padded_counts = count_targets(batch, tasks, context) if device.type == "cuda" else NOT_COUNTED
        return batch.to(device), metrics, padded_counts

    def close(self) -> None:
        """Stop fetching blocks and let go of those that are here."""
        if self.blocks is not None:
            self.blocks.close()


def read_ahead(
    read: Callable[[int], T], steps: Iterable[int], *, device: torch.device | None = None
) -> Generator[T, None, None]:
    """Yield read(step) for each step in order, up to READ_AHEAD of them early, in a thread that ends with the iterator.

    It is one thread, so that steps take their buffers in order.
    """
    waiting: deque[Future[T]] = deque()
    coming = iter(steps)
    pool = ThreadPoolExecutor(1, thread_name_prefix="batch-loader", initializer=_choose_device, initargs=(device,))
    try:
        waiting.extend(pool.submit(read, step) for step in islice(coming, READ_AHEAD))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(read, step) for step in islice(coming, 1))
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)


def _choose_device(device: torch.device | None) -> None:
    """Give a new thread its rank's GPU, as it starts with the first one, and a stream that no other thread uses."""
    if device is not None and device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
