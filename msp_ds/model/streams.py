"""The layers in which text and regions meet: two streams that look at each other, or one stream of both.

B batch, T text tokens, S region slots (the visual [CLS], if there is one, and the regions), H hidden size.

Each is a list of layers called with text [B, T, H], regions [B, S, H] and their bool masks [B, T] and [B, S], False on
padding; it gives the new states of both. The last layer can do with less. With `cls_only` it computes just the rows
that a pair is made of: [B, 1, H] for the text and [B, 1, H], or [B, 0, H] without a visual [CLS], for the regions. With
`asked` it computes the states that are asked for; the others are zero.

What the first layer projects of a text or an image depends on no other: `project` computes it for sequences that are
to be paired many times, and both streams may then come so projected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from msp_ds.config import ModelConfig
from msp_ds.model.layers import CrossModalityLayer, Projected, SelfLayer
from msp_ds.model.positions import TargetStates, scatter


class TwoStreams(nn.ModuleList):
    """Cross-modality layers, as in LXMERT."""

    title = "cross-modality layers"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(CrossModalityLayer(config) for _ in range(config.num_layers))
        self.visual_cls = config.visual_cls

    def project(self, states: Tensor) -> Projected:
        """[B, S, H] texts or images with the projections of the first layer."""
        return list[Any](self)[0].cross.project(states)  # type: ignore[no-any-return]

    def forward(
        self,
        text: Tensor | Projected,
        regions: Tensor | Projected,
        text_mask: Tensor,
        region_mask: Tensor,
        *,
        cls_only: bool = False,
        asked: TargetStates | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The states after the last layer, as this module says."""
        *lower, last = list[Any](self)  # ModuleList hides what they are
        for layer in lower:
            text, regions = layer(text, regions, text_mask, region_mask)
        if cls_only and not self.visual_cls:
            text_cls = last.text_cls(text, regions, text_mask, region_mask)
            return text_cls, text_cls[:, :0]
        if asked is None:
            return last(text, regions, text_mask, region_mask, cls_only=cls_only)  # type: ignore[no-any-return]
        rows = asked.text.flat(), asked.regions.flat()
        some_text, some_regions = last(text, regions, text_mask, region_mask, rows=rows)
        return scatter(some_text, rows[0], like=text_mask), scatter(some_regions, rows[1], like=region_mask)


class SingleStream(nn.ModuleList):
    """BERT's layers over the text and then the regions, as in UNITER and VisualBERT.

    Text and regions need no mark that tells them apart: the text alone has BERT's type vector, and both have their own
    LayerNorms.
    """

    title = "single-stream layers"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(SelfLayer(config) for _ in range(config.num_layers))
        self.visual_cls = config.visual_cls

    def project(self, states: Tensor) -> Projected:
        """[B, S, H] texts or images with the projections of the first layer."""
        return list[Any](self)[0].self_attention.project(states)  # type: ignore[no-any-return]

    def forward(
        self,
        text: Tensor | Projected,
        regions: Tensor | Projected,
        text_mask: Tensor,
        region_mask: Tensor,
        *,
        cls_only: bool = False,
        asked: TargetStates | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The states after the last layer, as this module says."""
        num_tokens, mask = text_mask.shape[1], torch.cat((text_mask, region_mask), dim=1)
        states = _in_a_row(text, regions)
        *lower, last = self
        for layer in lower:
            states = layer(states, mask)
        if cls_only:
            cls_rows = last(states, mask, asked=[0, num_tokens] if self.visual_cls else [0])
            return cls_rows[:, :1], cls_rows[:, 1:]
        if asked is None:
            states = last(states, mask)
        else:
            rows = asked.text.beside(asked.regions).flat()
            states = scatter(last(states, mask, rows=rows), rows, like=mask)
        return states[:, :num_tokens], states[:, num_tokens:]


def _in_a_row(text: Tensor | Projected, regions: Tensor | Projected) -> Any:
    """[B, T + S, H], projected if both are. Raises: TypeError when only one is."""
    if isinstance(text, Tensor) and isinstance(regions, Tensor):
        return torch.cat((text, regions), dim=1)
    if isinstance(text, Projected) and isinstance(regions, Projected):
        return Projected(*(torch.cat(parts, dim=1) for parts in zip(text, regions, strict=True)))
    raise TypeError("text and regions must both be projected, or neither")


STREAMS: dict[str, type[TwoStreams] | type[SingleStream]] = {"cross": TwoStreams, "single-stream": SingleStream}
"""By the name of the encoder in ModelConfig."""
