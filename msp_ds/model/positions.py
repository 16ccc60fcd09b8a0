"""Positions whose states the heads read: nothing is computed for the others.

B pairs of a batch, S positions of a sequence, N target positions, H hidden size. Position (b, s) of a grid [B, S] has
the flat index b S + s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class FlatPositions:
    """N positions of a grid [B, S] as a list."""

    index: Tensor
    """int64 [N]: flat indices, each at most once."""
    is_target: Tensor
    """bool [N]: False for positions that only pad the list."""


@dataclass(frozen=True, kw_only=True)
class TargetPositions:
    """The target positions of a grid [B, S]."""

    mask: Tensor
    """bool [B, S]: True at target positions."""
    padded_count: int | None = None
    """Length of the padded list of positions, at least their number. None: the list is as long as the mask says, which
    a CPU knows at once, but for which the host would have to wait for a GPU."""

    def flat(self) -> FlatPositions:
        """List the target positions in ascending order, padded with other positions to `padded_count`."""
        flat = self.mask.flatten()
        if self.padded_count is None:
            index = flat.nonzero().squeeze(1)
            return FlatPositions(index, torch.ones_like(index, dtype=torch.bool))
        index = flat.to(torch.uint8).argsort(descending=True, stable=True)[: self.padded_count]
        return FlatPositions(index, flat[index])

    def with_first(self) -> TargetPositions:
        """Add the first position of every sequence."""
        is_first = torch.arange(self.mask.shape[1], device=self.mask.device) == 0
        return TargetPositions(mask=self.mask | is_first, padded_count=self._plus(len(self.mask)))

    def after_prepended(self) -> TargetPositions:
        """Return the positions in a grid [B, 1 + S] that has one more at the front, which is a target too."""
        return TargetPositions(mask=F.pad(self.mask, (1, 0), value=True), padded_count=self._plus(len(self.mask)))

    def concatenated(self, others: TargetPositions) -> TargetPositions:
        """Return the positions of two grids [B, S] and [B, S'] as those of one grid [B, S + S']."""
        return TargetPositions(
            mask=torch.cat((self.mask, others.mask), dim=1), padded_count=self._plus(others.padded_count)
        )

    def _plus(self, count: int | None) -> int | None:
        return None if self.padded_count is None or count is None else self.padded_count + count


@dataclass(frozen=True, kw_only=True)
class TargetStates:
    """The states that the heads will read."""

    text: TargetPositions
    """Positions of the grid [B, T]."""
    regions: TargetPositions
    """Positions of the grid [B, R]; [B, 1 + R] where a visual [CLS] precedes the regions."""


def gather(states: Tensor, positions: FlatPositions) -> Tensor:
    """Return the states [N, ...] at N positions of `states` [B, S, ...]."""
    return states.flatten(0, 1).index_select(0, positions.index)


def scatter(gathered: Tensor, positions: FlatPositions, *, like: Tensor) -> Tensor:
    """Put `gathered` [N, H] at its positions of a grid [B, S, H] of zeros; `like` [B, S] gives the grid's shape."""
    batch_size, length = like.shape
    grid = gathered.new_zeros(batch_size * length, gathered.shape[1]).index_copy(0, positions.index, gathered)
    return grid.view(batch_size, length, -1)
