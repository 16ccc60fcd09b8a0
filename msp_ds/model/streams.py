"""The layers in which text and regions meet: two streams that attend to each other, or one stream of both.

B pairs of a batch, T text tokens, S region slots (the visual [CLS], if there is one, and the regions), H hidden size.

Each class is a list of layers that turns text [B, T, H] and regions [B, S, H], with bool masks [B, T] and [B, S] that
are False on padding, into new states of both. The last layer can compute less:

- `cls_only`: only the [CLS] states, text [B, 1, H] and regions [B, 1, H], or [B, 0, H] without a visual [CLS].
- `targets`: only the states at target positions; the others are zero.

The first layer's projections of a text or an image do not depend on its partner. `project` computes them once for
sequences that are paired many times; text and regions can then both be passed as `Projected`.
"""

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
        """Project texts or images [B, S, H] for the first layer."""
        return list[Any](self)[0].cross.project(states)  # type: ignore[no-any-return]

    def forward(
        self,
        text: Tensor | Projected,
        regions: Tensor | Projected,
        text_mask: Tensor,
        region_mask: Tensor,
        *,
        cls_only: bool = False,
        targets: TargetStates | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the states of text and regions after the last layer (see the module's docstring)."""
        *lower, last = list[Any](self)  # ModuleList hides the layers' type
        for layer in lower:
            text, regions = layer(text, regions, text_mask, region_mask)
        if cls_only and not self.visual_cls:
            text_cls = last.text_cls(text, regions, text_mask, region_mask)
            return text_cls, text_cls[:, :0]
        if targets is None:
            return last(text, regions, text_mask, region_mask, cls_only=cls_only)  # type: ignore[no-any-return]
        positions = targets.text.flat(), targets.regions.flat()
        some_text, some_regions = last(text, regions, text_mask, region_mask, positions=positions)
        return scatter(some_text, positions[0], like=text_mask), scatter(some_regions, positions[1], like=region_mask)


class SingleStream(nn.ModuleList):
    """BERT's layers over the text and then the regions, as in UNITER and VisualBERT.

    No embedding of the modality is needed: only the text has BERT's type vector, and each has LayerNorms of its own.
    """

    title = "single-stream layers"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(SelfLayer(config) for _ in range(config.num_layers))
        self.visual_cls = config.visual_cls

    def project(self, states: Tensor) -> Projected:
        """Project texts or images [B, S, H] for the first layer."""
        return list[Any](self)[0].self_attention.project(states)  # type: ignore[no-any-return]

    def forward(
        self,
        text: Tensor | Projected,
        regions: Tensor | Projected,
        text_mask: Tensor,
        region_mask: Tensor,
        *,
        cls_only: bool = False,
        targets: TargetStates | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the states of text and regions after the last layer (see the module's docstring)."""
        num_tokens, mask = text_mask.shape[1], torch.cat((text_mask, region_mask), dim=1)
        states = _concatenate(text, regions)
        *lower, last = self
        for layer in lower:
            states = layer(states, mask)
        if cls_only:
            cls_states = last(states, mask, queries=[0, num_tokens] if self.visual_cls else [0])
            return cls_states[:, :1], cls_states[:, 1:]
        if targets is None:
            states = last(states, mask)
        else:
            positions = targets.text.concatenated(targets.regions).flat()
            states = scatter(last(states, mask, positions=positions), positions, like=mask)
        return states[:, :num_tokens], states[:, num_tokens:]


def _concatenate(text: Tensor | Projected, regions: Tensor | Projected) -> Any:
    """[B, T + S, H], projected if both are; raises TypeError if only one is."""
    if isinstance(text, Tensor) and isinstance(regions, Tensor):
        return torch.cat((text, regions), dim=1)
    if isinstance(text, Projected) and isinstance(regions, Projected):
        return Projected(*(torch.cat(parts, dim=1) for parts in zip(text, regions, strict=True)))
    raise TypeError("text and regions must both be projected, or neither")


STREAMS: dict[str, type[TwoStreams] | type[SingleStream]] = {"cross": TwoStreams, "single-stream": SingleStream}
"""Values of ModelConfig.encoder."""
