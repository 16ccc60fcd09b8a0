"""BERT's layer, and the cross-modality layer of LXMERT (Tan and Bansal 2019; docs/tasks.md, The model).

B batch, T text tokens, S queries or region slots, M memory slots, N rows that are read, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.model.dropout import Dropout, attend
from msp_ds.model.positions import FlatPositions, gather
from msp_ds.model.recomputing import recomputed


class Projected(NamedTuple):
    """A sequence with what an attention makes of it alone, so that it is made once however often it is paired."""

    states: Tensor
    """[B, S, H]."""
    query: Tensor
    """[B, S, H], and so the next two: the heads beside each other."""
    key: Tensor
    value: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Projected:
        """Each of the four, changed alike."""
        return Projected(*(change(part) for part in self))


class Attention(nn.Module):
    """Multi-head attention with output projection, residual and LayerNorm (post-LN)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout_share = config.dropout
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def project(self, states: Tensor) -> Projected:
        """[B, S, H] `states` with their queries, keys and values."""
        return Projected(states, self.query(states), self.key(states), self.value(states))

    def forward(
        self,
        states: Tensor | Projected,
        memory: Tensor | Projected,
        memory_mask: Tensor,
        rows: FlatPositions | None = None,
    ) -> Tensor:
        """[B, S, H]: `states` [B, S, H] after looking at `memory` [B, M, H] where bool [B, M] `memory_mask` holds.

        With `rows` of the grid [B, S], those of them alone, [N, H]. Of sequences that are projected already, nothing is
        projected again.
        """
        asking = states.query if isinstance(states, Projected) else self.query(states)
        told = memory[2:] if isinstance(memory, Projected) else (self.key(memory), self.value(memory))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (asking, *told))
        dropout = self.dropout_share if self.training else 0.0
        seen = attend(query, key, value, memory_mask[:, None, None, :], dropout=dropout)
        seen = seen.transpose(1, 2).flatten(2)
        residual = states.states if isinstance(states, Projected) else states
        if rows is not None:
            residual, seen = gather(residual, rows), gather(seen, rows)
        merged = self.dropout(self.output(seen))
        return self.norm(residual + merged)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with the exact (erf) GELU, residual and LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.widen = nn.Linear(config.hidden_size, config.intermediate_size)
        self.narrow = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """[..., H] from [..., H]."""
        wide = self.widen(states)
        activated = F.gelu(wide)
        # Four times as wide as all else: the backward pass bends again what it needs rather than keep it.
        with recomputed(activated, partial(F.gelu, wide.detach())):
            narrow = self.narrow(activated)
        return self.norm(states + self.dropout(narrow))  # type: ignore[no-any-return]


class SelfLayer(nn.Module):
    """BERT's layer, for one sequence: the text's, the regions', or both in a row."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        states: Tensor | Projected,
        mask: Tensor,
        *,
        asked: slice | list[int] = slice(None),
        rows: FlatPositions | None = None,
    ) -> Tensor:
        """New states [B, S, H]; the bool mask [B, S] is False on padding.

        Of the `asked` places of every sequence only, or, as [N, H], of some `rows`.
        """
        own = states.map(lambda part: part[:, asked]) if isinstance(states, Projected) else states[:, asked]
        return self.feed_forward(self.self_attention(own, states, mask, rows))  # type: ignore[no-any-return]


class CrossModalityLayer(nn.Module):
    """Text and regions exchange what they know: cross-attention, self-attention and feed-forward for each stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # One set of weights for both directions, as in LXMERT: text to regions and regions to text.
        self.cross = Attention(config)
        self.text_self = Attention(config)
        self.region_self = Attention(config)
        self.text_feed_forward = FeedForward(config)
        self.region_feed_forward = FeedForward(config)

    def forward(
        self,
        text: Tensor | Projected,
        regions: Tensor | Projected,
        text_mask: Tensor,
        region_mask: Tensor,
        *,
        cls_only: bool = False,
        rows: tuple[FlatPositions | None, FlatPositions | None] = (None, None),
    ) -> tuple[Tensor, Tensor]:
        """New [B, T, H] text and [B, S, H] region states; masks are bool, False on padding.

        With `cls_only`, [B, 1, H] each: the first row of what would be returned otherwise. With `rows` of text and
        regions, [N, H] each: these rows of it.
        """
        # Both directions look at the old states of the other stream.
        looked_text = self.cross(text, regions, region_mask)
        looked_regions = self.cross(regions, text, text_mask)
        asking_text, asking_regions = looked_text, looked_regions
        if cls_only:
            asking_text, asking_regions = _first_row(looked_text), _first_row(looked_regions)
        new_text = self.text_self(asking_text, looked_text, text_mask, rows[0])
        new_regions = self.region_self(asking_regions, looked_regions, region_mask, rows[1])
        return self.text_feed_forward(new_text), self.region_feed_forward(new_regions)

    def text_cls(
        self, text: Tensor | Projected, regions: Tensor | Projected, text_mask: Tensor, region_mask: Tensor
    ) -> Tensor:
        """[B, 1, H]: the first text row of `forward`, without the work for the regions."""
        looked = self.cross(text, regions, region_mask)
        return self.text_feed_forward(self.text_self(_first_row(looked), looked, text_mask))  # type: ignore[no-any-return]


def _first_row(states: Tensor) -> Tensor:
    """[B, 1, H] of [B, S, H], as a tensor of its own: F.linear of a mere view would copy its weight B times."""
    return states[:, :1].contiguous()
