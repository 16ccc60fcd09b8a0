"""The assignment of tars to blocks when a cache is too small for all tars: a pure function of (seed, epoch, plan).

Each epoch assigns the tars of a set at random to the same number of blocks. Two blocks are in the cache at a time, the
one that is trained on and the next one, which is fetched meanwhile. A block is at most as large as the largest tars
together, which is known in advance. With several sets a block has tars of each.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from msp_ds.data.format.shards import ShardSet
from msp_ds.errors import InputError
from msp_ds.stateless_random import TAR_ORDER, hash64

GIGABYTE = 10**9
BLOCKS_IN_CACHE = 2


class BlockPlan:
    """The tars of some sets, assigned to `num_blocks` blocks in each epoch. S tars, P pairs of a set, N images."""

    def __init__(self, sets: Sequence[ShardSet], *, seed: int, num_blocks: int) -> None:
        self.seed = seed
        self.num_blocks = num_blocks
        self._tars = [torch.arange(len(one.index.shards)) for one in sets]
        self._tar_of_image = [torch.from_numpy(one.shard_of.astype(np.int64)) for one in sets]
        self._image_of_pair = [torch.from_numpy(one.pairs.image_rows.astype(np.int64)) for one in sets]
        self._blocks_of_tars = lru_cache(maxsize=2)(self._assign_tars)
        self._images = lru_cache(maxsize=4)(self._find_images)

    def tars(self, epoch: int, block: int) -> list[Tensor]:
        """Return for each set int64 [n]: the tars of a block of an epoch, ascending."""
        return [(blocks == block).nonzero().flatten() for blocks in self._blocks_of_tars(epoch)]

    def images(self, epoch: int, blocks: tuple[int, int]) -> list[Tensor]:
        """Return for each set int64 [n]: the images of the first to the last of some blocks, ascending."""
        return self._images(epoch, *blocks)

    def pairs(self, epoch: int) -> list[Tensor]:
        """Return for each set int64 [P]: the block of each pair's image."""
        columns = zip(self._blocks_of_tars(epoch), self._tar_of_image, self._image_of_pair, strict=True)
        return [blocks[tars][images] for blocks, tars, images in columns]

    def _assign_tars(self, epoch: int) -> list[Tensor]:
        """For each set, int64 [S]: the block of each tar."""
        assigned = []
        for part, tars in enumerate(self._tars):
            shuffled = hash64(seed=self.seed, epoch=epoch, keys=tars, purpose=TAR_ORDER.format(part=part)).argsort(
                stable=True
            )
            assigned.append(torch.empty_like(tars).scatter_(0, shuffled, tars % self.num_blocks))
        return assigned

    def _find_images(self, epoch: int, first: int, last: int) -> list[Tensor]:
        found = []
        for blocks, tar_of_image in zip(self._blocks_of_tars(epoch), self._tar_of_image, strict=True):
            block = blocks[tar_of_image]
            found.append(((block >= first) & (block <= last)).nonzero().flatten())
        return found


def plan_blocks(sets: Sequence[ShardSet], *, limit: int, kept: int, seed: int, batch_size: int) -> BlockPlan:
    """Plan as few blocks as fit into a cache: one if all tars fit, else so many that two always fit.

    limit: bytes that the cache may hold. kept: bytes of these for tables and held-out sets, in use all the time.

    Raises: InputError, which names a sufficient limit, when a batch could need more blocks than two or no number of
    blocks makes them small enough.
    """
    sizes = [sorted((shard.bytes for shard in one.index.shards), reverse=True) for one in sets]
    counts = [sorted(np.bincount(one.shard_of[one.pairs.image_rows], minlength=len(one.index.shards))) for one in sets]
    total, free = sum(map(sum, sizes)), limit - kept

    def largest(num_blocks: int) -> int:
        """Bytes of a block that holds the largest tars."""
        return sum(sum(part[: math.ceil(len(part) / num_blocks)]) for part in sizes)

    def feeds_a_batch(num_blocks: int) -> bool:
        """Whether a block of the smallest tars holds a batch, so that no batch needs a third block."""
        return all(sum(part[: len(part) // num_blocks]) >= batch_size for part in counts)

    if total <= free:
        return BlockPlan(sets, seed=seed, num_blocks=1)
    possible = [number for number in range(2, min(map(len, sizes)) + 1) if feeds_a_batch(number)]
    for number in possible:
        if BLOCKS_IN_CACHE * largest(number) <= free:
            return BlockPlan(sets, seed=seed, num_blocks=number)
    least = min([total, *(BLOCKS_IN_CACHE * largest(number) for number in possible)])
    stages = " and ".join(one.index.stage for one in sets)
    raise InputError(
        f"the tars of {stages} take {total / GIGABYTE:.1f} GB, and two blocks of them, each with at least a batch of "
        f"{batch_size} pairs, {least / GIGABYTE:.1f} GB, beside {kept / GIGABYTE:.1f} GB of tables and held-out "
        f"images; the cache may hold {limit / GIGABYTE:.1f} GB: "
        f"give --cache-limit {(least + kept) / GIGABYTE + 0.05:.1f}"
    )
