"""The way of a batch from the shards to the device, read ahead in the background."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from msp_ds.curriculum import Part
from msp_ds.data.order import Order, rank_slice
from msp_ds.data.reader import Reader
from msp_ds.records import Batch
from msp_ds.tasks.task import Context, image_choice, num_strays
from msp_ds.training.runtime import Runtime

T = TypeVar("T")

READ_AHEAD = 3
"""Batches that wait in memory."""


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What one rank trains on in one optimiser step."""

    step: int
    epoch: int
    part: Part
    micro_batches: tuple[Batch, ...]
    """One a forward pass, on the rank's device."""


class Feed:
    """Reads the portions of one rank in the order of the stage."""

    def __init__(self, parts: Sequence[Part], readers: Sequence[Reader], context: Context, runtime: Runtime) -> None:
        self.parts = parts
        self.readers = readers
        self.context = context
        self.runtime = runtime

    def portions(self, order: Order, *, start: int, end: int, micro_batch: int) -> Iterator[Portion]:
        """The portions of steps start to end - 1, read ahead by a thread of their own."""

        def read(step: int) -> Portion:
            whole = order.batch(step)
            num_tokens = self.readers[whole.part].longest(whole.pairs)
            mine = rank_slice(whole.pairs, rank=self.runtime.rank, world_size=self.runtime.world_size)
            return Portion(
                step=step,
                epoch=whole.epoch,
                part=self.parts[whole.part],
                micro_batches=tuple(
                    self.read(whole.part, pairs, epoch=whole.epoch, num_tokens=num_tokens)
                    for pairs in torch.split(mine, micro_batch)
                ),
            )

        return read_ahead(read, range(start, end))

    def read(self, part: int, pairs: Tensor, *, epoch: int, num_tokens: int | None = None) -> Batch:
        """The clean batch of `pairs` (int64 [B]) of one part, its images chosen by the part's tasks."""
        reader, tasks = self.readers[part], self.parts[part].tasks
        context = dataclasses.replace(self.context, epoch=epoch)
        keys, images = reader.keys[pairs], reader.images[pairs]
        matched = torch.ones(len(pairs), dtype=torch.bool)
        choice = image_choice(tasks)
        if choice is not None:
            images, matched = choice.choose(keys, images, reader.look_alikes, reader.num_images, context)
        strays = context.draw(keys, "stray region", 2 * num_strays(tasks))
        batch = reader.read(pairs, images=images, matched=matched, strays=strays, num_tokens=num_tokens)
        on_gpu = self.runtime.device.type == "cuda"
        return (batch.pin_memory() if on_gpu else batch).to(self.runtime.device)


def read_ahead(read: Callable[[int], T], steps: Iterable[int]) -> Iterator[T]:
    """read(step) for each step in order, up to READ_AHEAD of them early, in a thread that ends with the iterator."""
    waiting: deque[Future[T]] = deque()
    coming = iter(steps)
    pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
    try:
        waiting.extend(pool.submit(read, step) for step in islice(coming, READ_AHEAD))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(read, step) for step in islice(coming, 1))
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)
