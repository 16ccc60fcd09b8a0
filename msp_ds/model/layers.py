"""BERT's layer, and the cross-modality layer of LXMERT (Tan and Bansal 2019; FACTS 1.1): look across, inside, think.

B batch, T text tokens, S queries or region slots, M memory slots, N rows that are read, H hidden.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.model.dropout import Dropout, attend
from msp_ds.model.recomputing import recomputed
from msp_ds.model.rows import Rows, take


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

    def forward(self, states: Tensor, memory: Tensor, memory_mask: Tensor, rows: Rows | None = None) -> Tensor:
        """[B, S, H]: `states` [B, S, H] after looking at `memory` [B, M, H] where bool [B, M] `memory_mask` holds.

        With `rows` of the grid [B, S], those of them alone, [N, H].
        """
        query, key, value = (
            layer(source).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, source in ((self.query, states), (self.key, memory), (self.value, memory))
        )
        dropout = self.dropout_share if self.training else 0.0
        seen = attend(query, key, value, memory_mask[:, None, None, :], dropout=dropout)
        seen = seen.transpose(1, 2).flatten(2)
        if rows is not None:
            states, seen = take(states, rows), take(seen, rows)
        merged = self.dropout(self.output(seen))
        return self.norm(states + merged)  # type: ignore[no-any-return]


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
        bent = F.gelu(wide)
        # Four times as wide as all else: the backward pass bends anew what it needs rather than keep it.
        with recomputed(bent, partial(F.gelu, wide.detach())):
            narrow = self.narrow(bent)
        return self.norm(states + self.dropout(narrow))  # type: ignore[no-any-return]


class SelfLayer(nn.Module):
    """BERT's layer, for one sequence: the text's, the regions', or both in a row."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, states: Tensor, mask: Tensor, *, asked: slice | list[int] = slice(None), rows: Rows | None = None
    ) -> Tensor:
        """New states [B, S, H]; the bool mask [B, S] is False on padding.

        Of the `asked` places of every sequence only, or, as [N, H], of some `rows`.
        """
        return self.feed_forward(self.self_attention(states[:, asked], states, mask, rows))  # type: ignore[no-any-return]


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
        text: Tensor,
        regions: Tensor,
        text_mask: Tensor,
        region_mask: Tensor,
        *,
        cls_only: bool = False,
        rows: tuple[Rows | None, Rows | None] = (None, None),
    ) -> tuple[Tensor, Tensor]:
        """New [B, T, H] text and [B, S, H] region states; masks are bool, False on padding.

        With `cls_only`, [B, 1, H] each: the first row of what would be returned otherwise. With `rows` of text and
        regions, [N, H] each: these rows of it.
        """
        # Both directions look at the old states of the other stream.
        looked_text = self.cross(text, regions, region_mask)
        looked_regions = self.cross(regions, text, text_mask)
        first = slice(0, 1) if cls_only else slice(None)
        text = self.text_self(looked_text[:, first], looked_text, text_mask, rows[0])
        regions = self.region_self(looked_regions[:, first], looked_regions, region_mask, rows[1])
        return self.text_feed_forward(text), self.region_feed_forward(regions)

    def text_cls(self, text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> Tensor:
        """[B, 1, H]: the first text row of `forward`, without the work for the regions."""
        looked = self.cross(text, regions, region_mask)
        return self.text_feed_forward(self.text_self(looked[:, :1], looked, text_mask))  # type: ignore[no-any-return]
