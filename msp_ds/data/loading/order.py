"""Which pairs make which batch: a pure function of (seed, epoch, pair keys, lengths), known without reading a byte.

The order of an epoch is a sort by hash, so it depends neither on the number of ranks and workers nor on how the pairs
are laid out in shards. Batch g is a slice of it; what a rank reads is a slice of the batch. The state of an epoch is
therefore one number, and a run continues exactly, also on another number of ranks.

With length buckets the batches of a pool of 32 share out their pairs again, texts of like length together: a batch is
padded to its longest text, so fewer slots stay empty. Which pairs an epoch shows, and how often, stays the same.

Sets that come to this machine block by block (block_plan.py) are walked block by block: the pairs of an epoch's first
block in the order of their hashes, then those of the second. The batch on the edge takes from both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from msp_ds.config import LengthBuckets
from msp_ds.errors import InputError
from msp_ds.stateless_random import BATCH_ORDER, PAIR_ORDER, hash64

POOL_BATCHES = 32
"""Batches that share out their pairs by length: 32 leave little to save, and stay a random sample of the epoch."""
WORTH_SAVING = 0.05
"""Share of the text slots from which on `auto` takes buckets: batches of like texts are a price, if a small one."""


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """One batch over all ranks."""

    epoch: int
    part: int
    """Which of the shard sets it comes from."""
    pairs: Tensor
    """int64 [batch size]: rows of that set's pair table."""
    blocks: tuple[int, int] = (0, 0)
    """First and last of the epoch's blocks that hold the pairs' images: one block, or one and the next."""


PairBlocks = Callable[[int], list[Tensor]]
"""epoch -> for each set int64 [P]: which of the epoch's blocks holds each pair's image."""


class Order:
    """The global batches of a stage. With several sets, batches of each come in proportion to their pairs."""

    def __init__(
        self,
        keys: list[Tensor],
        *,
        seed: int,
        batch_size: int,
        lengths: list[Tensor] | None = None,
        blocks: PairBlocks | None = None,
    ) -> None:
        """keys: for each set int64 [P], the keys of its pairs. Pairs beyond the last full batch wait for an epoch.

        lengths: for each set int64 [P], the slots that a pair's text takes, few different ones: fills length buckets.
        blocks: where the sets come block by block; no batch may need more than two of them.

        Raises InputError when a set has fewer pairs than one batch.
        """
        for part in keys:
            if len(part) < batch_size:
                raise InputError(
                    f"a batch of {batch_size} pairs cannot be drawn from {len(part)}; "
                    "make the batch smaller (--batch-size) or the shards larger"
                )
        self.seed = seed
        self.batch_size = batch_size
        self._keys = keys
        self._lengths = lengths
        self._blocks = blocks
        self.batches_per_epoch = sum(len(part) // batch_size for part in keys)
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)

    def batch(self, step: int) -> GlobalBatch:
        """The batch of optimiser step `step`, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.batches_per_epoch)
        return self._epoch(epoch)[place]

    def sections(self, start: int, end: int) -> Iterator[range]:
        """Steps start to end - 1 in runs whose batches need the same blocks; without blocks, one run."""
        if self._blocks is None:
            yield range(start, end)
            return
        for _, run in groupby(range(start, end), key=lambda step: (self.batch(step).epoch, self.batch(step).blocks)):
            steps = list(run)
            yield range(steps[0], steps[-1] + 1)

    def _build_epoch(self, epoch: int) -> list[GlobalBatch]:
        batches: list[GlobalBatch] = []
        blocks = self._blocks(epoch) if self._blocks else [torch.zeros_like(keys) for keys in self._keys]
        for part, keys in enumerate(self._keys):
            shuffled = hash64(seed=self.seed, epoch=epoch, keys=keys, purpose=PAIR_ORDER).argsort(stable=True)
            if self._blocks is not None:
                shuffled = shuffled[blocks[part][shuffled].argsort(stable=True)]
            full = shuffled[: len(keys) // self.batch_size * self.batch_size]
            needs = blocks[part][full].view(-1, self.batch_size)[:, [0, -1]]  # of each batch, its first and last block
            if self._lengths is not None:
                full = full[self._bucketed(self._lengths[part][full], needs)]
            batches += [
                GlobalBatch(epoch=epoch, part=part, pairs=pairs, blocks=(first, last))
                for pairs, (first, last) in zip(torch.split(full, self.batch_size), needs.tolist(), strict=True)
            ]
        places = torch.arange(len(batches))
        mixed = hash64(seed=self.seed, epoch=epoch, keys=places, purpose=BATCH_ORDER).argsort(stable=True)
        # Within its block each batch may be anywhere, but those that need the next block too come last.
        return sorted((batches[place] for place in mixed.tolist()), key=lambda batch: batch.blocks)

    def _bucketed(self, lengths: Tensor, needs: Tensor) -> Tensor:
        """int64 [n]: places 0 to n - 1, sorted by length within each pool, ties as they come.

        needs: int64 [n / batch size, 2], the blocks of each batch; a pool is at most POOL_BATCHES that need the same.
        Within a batch the places ascend, so that short and long texts meet on every rank.
        """
        starts = torch.arange(len(needs)) % POOL_BATCHES == 0
        starts[1:] |= (needs[1:] != needs[:-1]).any(1)
        pools = starts.cumsum(0).repeat_interleave(self.batch_size)
        by_length = (pools * (lengths.max() + 1) + lengths).argsort(stable=True)
        return by_length.view(-1, self.batch_size).sort(dim=1).values.flatten()


class OrderChoice(NamedTuple):
    """An order and what it was chosen for."""

    order: Order
    buckets: bool
    saved_share: float
    """Of the text slots, that buckets save or would save."""


def choose_order(
    keys: list[Tensor],
    lengths: list[Tensor],
    *,
    seed: int,
    batch_size: int,
    length_buckets: LengthBuckets,
    blocks: PairBlocks | None = None,
) -> OrderChoice:
    """The order with length buckets or without; `auto` compares the first epoch's text slots.

    keys, lengths, blocks: as for Order. Raises InputError when a set has fewer pairs than one batch.
    """
    plain = Order(keys, seed=seed, batch_size=batch_size, blocks=blocks)
    bucketed = Order(keys, seed=seed, batch_size=batch_size, lengths=lengths, blocks=blocks)
    saved = 1 - text_slots(bucketed, lengths) / text_slots(plain, lengths)
    buckets = length_buckets == "on" or (length_buckets == "auto" and saved > WORTH_SAVING)
    return OrderChoice(bucketed if buckets else plain, buckets, saved)


def text_slots(order: Order, lengths: list[Tensor]) -> int:
    """Text slots of the first epoch, each batch padded to its longest text. lengths: for each set int64 [P]."""
    batches = [order.batch(step) for step in range(order.batches_per_epoch)]
    return sum(len(batch.pairs) * int(lengths[batch.part][batch.pairs].max()) for batch in batches)


def rank_slice(pairs: Tensor, *, rank: int, world_size: int) -> Tensor:
    """What rank `rank` of `world_size` reads of a global batch: a contiguous, equal share."""
    share = len(pairs) // world_size
    return pairs[rank * share : (rank + 1) * share]
