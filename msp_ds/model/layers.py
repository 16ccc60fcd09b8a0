"""BERT's layer, and the cross-modality layer of LXMERT (Tan and Bansal 2019; docs/tasks.md, The model).

B pairs of a batch, T text tokens, S queries or region slots, M memory slots, N target positions, H hidden size.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Self

from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.model.dropout import Dropout, attend
from msp_ds.model.positions import FlatPositions, gather
from msp_ds.model.recomputing import recomputed


class Projected(NamedTuple):
    """A sequence with its queries, keys and values, computed once for sequences that are paired many times."""

    states: Tensor
    """[B, S, H]."""
    query: Tensor
    """[B, S, H]: the heads side by side."""
    key: Tensor
    """[B, S, H]."""
    value: Tensor
    """[B, S, H]."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply `change` to each of the four tensors."""
        return type(self)(*(change(part) for part in self))


class Attention(nn.Module):
    """Multi-head attention with output projection, residual and LayerNorm (post-LN)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout_p = config.dropout
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def project(self, states: Tensor) -> Projected:
        """Compute the queries, keys and values of `states` [B, S, H]."""
        return Projected(states, self.query(states), self.key(states), self.value(states))

    def forward(
        self,
        states: Tensor | Projected,
        memory: Tensor | Projected,
        memory_mask: Tensor,
        positions: FlatPositions | None = None,
    ) -> Tensor:
        """Let `states` [B, S, H] attend to `memory` [B, M, H] where bool [B, M] `memory_mask` is True.

        Returns new states [B, S, H], or only those at some `positions` of the grid [B, S], [N, H]. Sequences that are
        projected already are not projected again.
        """
        query = states.query if isinstance(states, Projected) else self.query(states)
        key, value = memory[2:] if isinstance(memory, Projected) else (self.key(memory), self.value(memory))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        dropout = self.dropout_p if self.training else 0.0
        context = attend(query, key, value, memory_mask[:, None, None, :], dropout=dropout).transpose(1, 2).flatten(2)
        residual = states.states if isinstance(states, Projected) else states
        if positions is not None:
            residual, context = gather(residual, positions), gather(context, positions)
        return self.norm(residual + self.dropout(self.output(context)))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with the exact (erf) GELU, residual and LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.widen = nn.Linear(config.hidden_size, config.intermediate_size)
        self.narrow = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """New states [..., H] from states [..., H]."""
        wide = self.widen(states)
        activated = F.gelu(wide)
        # Four times as wide as the states: the backward pass recomputes the activation instead of keeping it.
        with recomputed(activated, partial(F.gelu, wide.detach())):
            narrow = self.narrow(activated)
        return self.norm(states + self.dropout(narrow))  # type: ignore[no-any-return]


class SelfLayer(nn.Module):
    """BERT's layer, for one sequence: text, regions, or text followed by regions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        states: Tensor | Projected,
        mask: Tensor,
        *,
        queries: slice | list[int] = slice(None),
        positions: FlatPositions | None = None,
    ) -> Tensor:
        """New states [B, S, H]; bool [B, S] `mask` is False on padding.

        With `queries`, only the states at these positions of every sequence; with `positions` of the grid [B, S], only
        the states there, [N, H].
        """
        own = states.map(lambda part: part[:, queries]) if isinstance(states, Projected) else states[:, queries]
        return self.feed_forward(self.self_attention(own, states, mask, positions))  # type: ignore[no-any-return]


class CrossModalityLayer(nn.Module):
    """Cross-attention between text and regions, then self-attention and feed-forward in each stream."""

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
        positions: tuple[FlatPositions | None, FlatPositions | None] = (None, None),
    ) -> tuple[Tensor, Tensor]:
        """New text [B, T, H] and region states [B, S, H]; masks are bool, False on padding.

        With `cls_only`, only the first state of each sequence, [B, 1, H] each; with `positions` of text and regions,
        only the states there, [N, H] each.
        """
        # Both directions attend to the old states of the other stream.
        crossed_text, crossed_regions = self.cross(text, regions, region_mask), self.cross(regions, text, text_mask)
        query_text, query_regions = crossed_text, crossed_regions
        if cls_only:
            query_text, query_regions = _first_state(crossed_text), _first_state(crossed_regions)
        new_text = self.text_self(query_text, crossed_text, text_mask, positions[0])
        new_regions = self.region_self(query_regions, crossed_regions, region_mask, positions[1])
        return self.text_feed_forward(new_text), self.region_feed_forward(new_regions)

    def text_cls(
        self, text: Tensor | Projected, regions: Tensor | Projected, text_mask: Tensor, region_mask: Tensor
    ) -> Tensor:
        """[B, 1, H]: the first text state of `forward`, without the work for the regions."""
        crossed = self.cross(text, regions, region_mask)
        return self.text_feed_forward(self.text_self(_first_state(crossed), crossed, text_mask))  # type: ignore[no-any-return]


def _first_state(states: Tensor) -> Tensor:
    """[B, 1, H] of [B, S, H], copied: F.linear of a view would copy its weight B times."""
    return states[:, :1].contiguous()
