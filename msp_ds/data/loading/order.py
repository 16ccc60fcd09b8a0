"""The order of pairs and batches: a pure function of (seed, epoch, pair keys, lengths), known without reading data.

The order of an epoch is a sort by hash, so it depends neither on the number of ranks and workers nor on the layout of
the shards. Batch g is a slice of it, and a rank reads a slice of the batch. The state of an epoch is therefore one
number, and a run continues exactly, also on another number of ranks.

With length buckets the pairs of 32 batches are sorted by length and divided among these batches again: a batch is
padded to its longest text, so fewer slots stay empty. An epoch still shows the same pairs, each as often.

Sets that are fetched block by block (block_plan.py) are read block by block: the pairs of an epoch's first block in the
order of their hashes, then those of the second. The batch at the border has pairs of both.
"""

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
"""Batches that are sorted by length together: more would save little, and 32 are still a random sample of the epoch."""
WORTH_SAVING = 0.05
"""The fraction of text slots from which on `auto` uses buckets, since batches of similar texts are less random."""


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """One batch over all ranks."""

    epoch: int
    part: int
    """Index of its shard set."""
    pairs: Tensor
    """int64 [batch size]: rows of that set's pair table."""
    blocks: tuple[int, int] = (0, 0)
    """First and last block of the epoch that hold the pairs' images: one block, or two consecutive ones."""


PairBlocks = Callable[[int], list[Tensor]]
"""epoch -> for each set int64 [P]: the block of the epoch that holds each pair's image."""


class Order:
    """The global batches of a stage; several sets have batches in proportion to their numbers of pairs."""

    def __init__(
        self,
        keys: list[Tensor],
        *,
        seed: int,
        batch_size: int,
        lengths: list[Tensor] | None = None,
        blocks: PairBlocks | None = None,
    ) -> None:
        """keys: for each set int64 [P], the keys of its pairs; an epoch leaves out those beyond the last full batch.

        lengths: for each set int64 [P], the slots of each text, with few different values; turns length buckets on.
        blocks: for sets that are fetched block by block; no batch may need more than two blocks.

        Raises: InputError when a set has fewer pairs than one batch.
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
        """Return the batch of optimiser step `step`, counted from 0 over all epochs."""
        epoch, number = divmod(step, self.batches_per_epoch)
        return self._epoch(epoch)[number]

    def sections(self, start: int, end: int) -> Iterator[range]:
        """Yield steps start to end - 1 in ranges whose batches need the same blocks; without blocks, one range."""
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
            needs = blocks[part][full].view(-1, self.batch_size)[:, [0, -1]]  # first and last block of each batch
            if self._lengths is not None:
                full = full[self._bucketed(self._lengths[part][full], needs)]
            batches += [
                GlobalBatch(epoch=epoch, part=part, pairs=pairs, blocks=(first, last))
                for pairs, (first, last) in zip(torch.split(full, self.batch_size), needs.tolist(), strict=True)
            ]
        numbers = torch.arange(len(batches))
        mixed = hash64(seed=self.seed, epoch=epoch, keys=numbers, purpose=BATCH_ORDER).argsort(stable=True)
        # Batches are shuffled within their block; those that also need the next block come last.
        return sorted((batches[number] for number in mixed.tolist()), key=lambda batch: batch.blocks)

    def _bucketed(self, lengths: Tensor, needs: Tensor) -> Tensor:
        """int64 [n]: positions 0 to n - 1, sorted by length within each pool, ties in their order.

        needs: int64 [n / batch size, 2], the blocks of each batch; a pool is at most POOL_BATCHES with the same blocks.
        Within a batch the positions ascend, so that every rank has short and long texts.
        """
        starts = torch.arange(len(needs)) % POOL_BATCHES == 0
        starts[1:] |= (needs[1:] != needs[:-1]).any(1)
        pools = starts.cumsum(0).repeat_interleave(self.batch_size)
        by_length = (pools * (lengths.max() + 1) + lengths).argsort(stable=True)
        return by_length.view(-1, self.batch_size).sort(dim=1).values.flatten()


class OrderChoice(NamedTuple):
    """An order and the reason for its choice."""

    order: Order
    buckets: bool
    saved_ratio: float  # fraction of the text slots that buckets save or would save


def choose_order(
    keys: list[Tensor],
    lengths: list[Tensor],
    *,
    seed: int,
    batch_size: int,
    length_buckets: LengthBuckets,
    blocks: PairBlocks | None = None,
) -> OrderChoice:
    """Return the order with or without length buckets; `auto` compares the text slots of the first epoch.

    keys, lengths, blocks: as for Order. Raises: InputError when a set has fewer pairs than one batch.
    """
    plain = Order(keys, seed=seed, batch_size=batch_size, blocks=blocks)
    bucketed = Order(keys, seed=seed, batch_size=batch_size, lengths=lengths, blocks=blocks)
    saved = 1 - text_slots(bucketed, lengths) / text_slots(plain, lengths)
    buckets = length_buckets == "on" or (length_buckets == "auto" and saved > WORTH_SAVING)
    return OrderChoice(bucketed if buckets else plain, buckets, saved)


def text_slots(order: Order, lengths: list[Tensor]) -> int:
    """Count the text slots of the first epoch, each batch padded to its longest text. lengths: as for Order."""
    batches = [order.batch(step) for step in range(order.batches_per_epoch)]
    return sum(len(batch.pairs) * int(lengths[batch.part][batch.pairs].max()) for batch in batches)


def rank_slice(pairs: Tensor, *, rank: int, world_size: int) -> Tensor:
    """Return the pairs of a global batch that rank `rank` of `world_size` reads: a contiguous slice of equal size."""
    size = len(pairs) // world_size
    return pairs[rank * size : (rank + 1) * size]
