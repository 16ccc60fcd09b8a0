"""Some rows of a grid of states: those that a head reads, so that nothing is computed for the others.

B batch, S places of a sequence, N rows, H hidden size. Place (b, s) of a grid has the number b S + s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class FlatPositions:
    """N places of a grid [B, S], as a list."""

    index: Tensor
    """int64 [N], each place at most once."""
    is_target: Tensor
    """bool [N]: False where a place only fills the list up to its room."""


@dataclass(frozen=True, kw_only=True)
class TargetPositions:
    """TargetPositions of a grid that are asked about."""

    where: Tensor
    """bool [B, S]."""
    padded_count: int | None = None
    """How long their list is: at least as many as there are. None where the list may be as long as it has to be, which
    a CPU knows at once and a GPU has to be waited for."""

    def flat(self) -> FlatPositions:
        """The places as a list, in their order; places that are not asked about fill it up to its room."""
        flat = self.where.flatten()
        if self.padded_count is None:
            index = flat.nonzero().squeeze(1)
            return FlatPositions(index, torch.ones_like(index, dtype=torch.bool))
        index = flat.to(torch.uint8).argsort(descending=True, stable=True)[: self.padded_count]
        return FlatPositions(index, flat[index])

    def with_first(self) -> TargetPositions:
        """These places and the first of every sequence."""
        is_first = torch.arange(self.where.shape[1], device=self.where.device) == 0
        return TargetPositions(where=self.where | is_first, padded_count=self._more_room())

    def after_one_more(self) -> TargetPositions:
        """These places of a grid [B, 1 + S], and its first."""
        return TargetPositions(where=F.pad(self.where, (1, 0), value=True), padded_count=self._more_room())

    def _more_room(self) -> int | None:
        return None if self.padded_count is None else self.padded_count + len(self.where)

    def beside(self, others: TargetPositions) -> TargetPositions:
        """The places of two grids [B, S] and [B, S'] as one of [B, S + S']."""
        padded_count = (
            None
            if self.padded_count is None or others.padded_count is None
            else self.padded_count + others.padded_count
        )
        return TargetPositions(where=torch.cat((self.where, others.where), dim=1), padded_count=padded_count)


@dataclass(frozen=True, kw_only=True)
class TargetStates:
    """The states that heads will read."""

    text: TargetPositions
    """Of the grid [B, T]."""
    regions: TargetPositions
    """Of the grid [B, R], or, with a visual [CLS] before the regions, [B, 1 + R]."""


def gather(states: Tensor, flat: FlatPositions) -> Tensor:
    """[N, ...]: these rows of `states` [B, S, ...]."""
    return states.flatten(0, 1).index_select(0, flat.index)


def scatter(gathered: Tensor, flat: FlatPositions, *, like: Tensor) -> Tensor:
    """[B, S, H]: `taken` [N, H] where it was taken of a grid [B, S] `like` this one, zero elsewhere."""
    num_pairs, num_places = like.shape
    grid = gathered.new_zeros(num_pairs * num_places, gathered.shape[1]).index_copy(0, flat.index, gathered)
    return grid.view(num_pairs, num_places, -1)
