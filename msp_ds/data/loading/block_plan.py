"""Which tars are at hand together when a cache is too small for all of them: a pure function of (seed, epoch, plan).

Each epoch deals the tars of a set again into the same number of blocks, like cards. Two blocks lie in the cache at a
time, the one that is trained on and the next, which comes meanwhile. How large a block may become is known before any
is dealt: as large as the largest tars together. With several sets a block has tars of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from msp_ds.data.format.shards import ShardSet
from msp_ds.errors import InputError
from msp_ds.stateless_random import TAR_ORDER, hash64

GIGABYTE = 10**9
BLOCKS_AT_HAND = 2


@dataclass(frozen=True, kw_only=True)
class CacheBudget:
    """What a cache has for the tars of a stage."""

    limit: int
    """Bytes that it may hold in all."""
    kept: int
    """Bytes of them that are in use as long as the run lasts: tables, held-out sets."""


class BlockPlan:
    """The tars of some sets, dealt into `num_blocks` blocks an epoch. S tars, P pairs of a set, N images."""

    def __init__(self, sets: Sequence[ShardSet], *, seed: int, num_blocks: int) -> None:
        self.seed = seed
        self.num_blocks = num_blocks
        self._tars = [torch.arange(len(one.index.shards)) for one in sets]
        self._tar_of_image = [torch.from_numpy(one.shard_of.astype(np.int64)) for one in sets]
        self._image_of_pair = [torch.from_numpy(one.pairs.image_rows.astype(np.int64)) for one in sets]
        self._deal = lru_cache(maxsize=2)(self._deal_epoch)
        self._images = lru_cache(maxsize=4)(self._find_images)

    def tars(self, epoch: int, block: int) -> list[Tensor]:
        """For each set, int64 [n]: the tars of a block of an epoch, ascending."""
        return [(dealt == block).nonzero().flatten() for dealt in self._deal(epoch)]

    def images(self, epoch: int, blocks: tuple[int, int]) -> list[Tensor]:
        """For each set, int64 [n]: the images of the first to the last of some blocks, ascending."""
        return self._images(epoch, *blocks)

    def pairs(self, epoch: int) -> list[Tensor]:
        """For each set, int64 [P]: the block of each pair's image."""
        columns = zip(self._deal(epoch), self._tar_of_image, self._image_of_pair, strict=True)
        return [dealt[tars][images] for dealt, tars, images in columns]

    def _deal_epoch(self, epoch: int) -> list[Tensor]:
        """For each set, int64 [S]: the block of each tar."""
        dealt = []
        for part, tars in enumerate(self._tars):
            shuffled = hash64(seed=self.seed, epoch=epoch, keys=tars, purpose=TAR_ORDER.format(part=part)).argsort(
                stable=True
            )
            dealt.append(torch.empty_like(tars).scatter_(0, shuffled, tars % self.num_blocks))
        return dealt

    def _find_images(self, epoch: int, first: int, last: int) -> list[Tensor]:
        found = []
        for dealt, tar_of_image in zip(self._deal(epoch), self._tar_of_image, strict=True):
            block = dealt[tar_of_image]
            found.append(((block >= first) & (block <= last)).nonzero().flatten())
        return found


def plan_blocks(sets: Sequence[ShardSet], room: CacheBudget, *, seed: int, batch_size: int) -> BlockPlan:
    """As few blocks as fit into the room: one if all tars do, else so many that two always do.

    Raises: InputError when a batch could need more blocks than two, or a block cannot be small enough, with the limit
    that would do.
    """
    sizes = [sorted((shard.bytes for shard in one.index.shards), reverse=True) for one in sets]
    counts = [sorted(np.bincount(one.shard_of[one.pairs.image_rows], minlength=len(one.index.shards))) for one in sets]
    total, free = sum(map(sum, sizes)), room.limit - room.kept

    def largest(num_blocks: int) -> int:
        """Bytes of a block in which the largest tars met."""
        return sum(sum(part[: math.ceil(len(part) / num_blocks)]) for part in sizes)

    def feeds_a_batch(num_blocks: int) -> bool:
        """Whether the smallest tars together hold a batch, so that none needs a third block."""
        return all(sum(part[: len(part) // num_blocks]) >= batch_size for part in counts)

    if total <= free:
        return BlockPlan(sets, seed=seed, num_blocks=1)
    possible = [number for number in range(2, min(map(len, sizes)) + 1) if feeds_a_batch(number)]
    for number in possible:
        if BLOCKS_AT_HAND * largest(number) <= free:
            return BlockPlan(sets, seed=seed, num_blocks=number)
    least = min([total, *(BLOCKS_AT_HAND * largest(number) for number in possible)])
    stages = " and ".join(one.index.stage for one in sets)
    raise InputError(
        f"the tars of {stages} take {total / GIGABYTE:.1f} GB, and two blocks of them, each with at least a batch of "
        f"{batch_size} pairs, {least / GIGABYTE:.1f} GB, beside {room.kept / GIGABYTE:.1f} GB of tables and held-out "
        f"images; the cache may hold {room.limit / GIGABYTE:.1f} GB: "
        f"give --cache-limit {(least + room.kept) / GIGABYTE + 0.05:.1f}"
    )
