"""Some rows of a grid of states: those that a head reads, so that nothing is computed for the others.

B batch, S places of a sequence, N rows, H hidden size. Place (b, s) of a grid has the number b S + s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Rows:
    """N places of a grid [B, S], as a list."""

    index: Tensor
    """int64 [N], each place at most once."""
    asked: Tensor
    """bool [N]: False where a place only fills the list up to its room."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Places of a grid that are asked about."""

    where: Tensor
    """bool [B, S]."""
    room: int | None = None
    """How long their list is: at least as many as there are. None where the list may be as long as it has to be, which
    a CPU knows at once and a GPU has to be waited for."""

    def rows(self) -> Rows:
        """The places as a list, in their order; places that are not asked about fill it up to its room."""
        flat = self.where.flatten()
        if self.room is None:
            index = flat.nonzero().squeeze(1)
            return Rows(index, torch.ones_like(index, dtype=torch.bool))
        index = flat.to(torch.uint8).argsort(descending=True, stable=True)[: self.room]
        return Rows(index, flat[index])

    def with_first(self) -> Places:
        """These places and the first of every sequence."""
        is_first = torch.arange(self.where.shape[1], device=self.where.device) == 0
        return Places(where=self.where | is_first, room=self._more_room())

    def after_one_more(self) -> Places:
        """These places of a grid [B, 1 + S], and its first."""
        return Places(where=F.pad(self.where, (1, 0), value=True), room=self._more_room())

    def _more_room(self) -> int | None:
        return None if self.room is None else self.room + len(self.where)

    def beside(self, others: Places) -> Places:
        """The places of two grids [B, S] and [B, S'] as one of [B, S + S']."""
        room = None if self.room is None or others.room is None else self.room + others.room
        return Places(where=torch.cat((self.where, others.where), dim=1), room=room)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The states that heads will read."""

    text: Places
    """Of the grid [B, T]."""
    regions: Places
    """Of the grid [B, R], or, with a visual [CLS] before the regions, [B, 1 + R]."""


def take(states: Tensor, rows: Rows) -> Tensor:
    """[N, ...]: these rows of `states` [B, S, ...]."""
    return states.flatten(0, 1).index_select(0, rows.index)


def put_back(taken: Tensor, rows: Rows, *, like: Tensor) -> Tensor:
    """[B, S, H]: `taken` [N, H] where it was taken of a grid [B, S] `like` this one, zero elsewhere."""
    num_pairs, num_places = like.shape
    grid = taken.new_zeros(num_pairs * num_places, taken.shape[1]).index_copy(0, rows.index, taken)
    return grid.view(num_pairs, num_places, -1)
