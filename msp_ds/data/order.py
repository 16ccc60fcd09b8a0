"""Which pairs make which batch: a pure function of (seed, epoch, pair keys), known without reading a byte.

The order of an epoch is a sort by hash, so it depends neither on the number of ranks and workers nor on how the pairs
are laid out in shards. Batch g is a slice of it; what a rank reads is a slice of the batch. The state of an epoch is
therefore one number, and a run continues exactly, also on another number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from msp_ds.chance import hash64
from msp_ds.errors import InputError


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """One batch over all ranks."""

    epoch: int
    part: int
    """Which of the shard sets it comes from."""
    pairs: Tensor
    """int64 [batch size]: rows of that set's pair table."""


class Order:
    """The global batches of a stage. With several sets, batches of each come in proportion to their pairs."""

    def __init__(self, keys: list[Tensor], *, seed: int, batch_size: int) -> None:
        """keys: for each set int64 [P], the keys of its pairs. Pairs beyond the last full batch wait for an epoch.

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
        self.batches_per_epoch = sum(len(part) // batch_size for part in keys)
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)

    def batch(self, step: int) -> GlobalBatch:
        """The batch of optimiser step `step`, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.batches_per_epoch)
        part, pairs = self._epoch(epoch)[place]
        return GlobalBatch(epoch=epoch, part=part, pairs=pairs)

    def _build_epoch(self, epoch: int) -> list[tuple[int, Tensor]]:
        batches: list[tuple[int, Tensor]] = []
        for part, keys in enumerate(self._keys):
            shuffled = hash64(seed=self.seed, epoch=epoch, keys=keys, purpose="pair order").argsort(stable=True)
            full = len(keys) // self.batch_size * self.batch_size
            batches += [(part, pairs) for pairs in torch.split(shuffled[:full], self.batch_size)]
        places = torch.arange(len(batches))
        mixed = hash64(seed=self.seed, epoch=epoch, keys=places, purpose="batch order").argsort(stable=True)
        return [batches[place] for place in mixed.tolist()]


def rank_slice(pairs: Tensor, *, rank: int, world_size: int) -> Tensor:
    """What rank `rank` of `world_size` reads of a global batch: a contiguous, equal share."""
    share = len(pairs) // world_size
    return pairs[rank * share : (rank + 1) * share]
