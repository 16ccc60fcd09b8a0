"""The trunk: LXMERT-S, the five cross-modality layers of LXMERT and nothing below them (paper section 3, figure 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.model.embeddings import RegionEmbedding, TextEmbedding
from msp_ds.model.layers import CrossModalityLayer
from msp_ds.records import Batch, Encoded


class Trunk(nn.Module):
    """What a stage hands to the next: embeddings, cross-modality layers and the two poolers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.text = TextEmbedding(config)
        self.regions = RegionEmbedding(config)
        self.layers = nn.ModuleList(CrossModalityLayer(config) for _ in range(config.num_layers))
        self.text_pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.region_pooler = nn.Linear(config.hidden_size, config.hidden_size)
        initialise(self, config.init_std)
        # A masked region has the zero feature. With a zero bias LayerNorm would see the zero vector, whose gradient is
        # 1 / sqrt(eps) = 1e6 times too large: clipping would shrink every other gradient to nothing.
        nn.init.normal_(self.regions.feature.bias, std=config.init_std)

    def forward(self, batch: Batch) -> Encoded:
        """The states of a batch; the pair is tanh(pooled text [CLS]) x tanh(pooled visual [CLS])."""
        text = self.text(batch.token_ids, batch.word_positions)
        regions = self.regions(batch.features, batch.boxes)
        region_mask = F.pad(batch.region_mask, (1, 0), value=True)  # the visual [CLS] is always there
        for layer in self.layers:
            text, regions = layer(text, regions, batch.token_mask, region_mask)
        return Encoded(text=text, regions=regions[:, 1:], pair=self.pool(text[:, 0], regions[:, 0]))

    def encode_pairs(self, text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> Tensor:
        """The pairs [B, H] of embedded texts [B, T, H] and regions [B, 1 + R, H]; bool masks [B, T] and [B, 1 + R].

        The same numbers as `forward(...).pair`, but the last layer computes the two [CLS] rows only.
        """
        *lower, last = self.layers
        for layer in lower:
            text, regions = layer(text, regions, text_mask, region_mask)
        text, regions = last(text, regions, text_mask, region_mask, cls_only=True)
        return self.pool(text[:, 0], regions[:, 0])

    def pool(self, text_cls: Tensor, region_cls: Tensor) -> Tensor:
        """The pair [B, H] from the two [CLS] states [B, H]."""
        return torch.tanh(self.text_pooler(text_cls)) * torch.tanh(self.region_pooler(region_cls))


def initialise(module: nn.Module, std: float) -> None:
    """BERT's start: linear and embedding weights N(0, std), biases 0, LayerNorms 1 and 0 (FACTS 1.5)."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def count_parameters(trunk: Trunk) -> dict[str, int]:
    """Parameters by part, in the order of the forward pass."""
    parts = {
        "text embeddings": trunk.text,
        "region embeddings": nn.ModuleList(part for part in trunk.regions.children()),
        "cross-modality layers": trunk.layers,
        "text pooler": trunk.text_pooler,
        "region pooler": trunk.region_pooler,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return counts | {"visual [CLS] feature": trunk.regions.cls_feature.numel()}


def paper_count(trunk: Trunk) -> int:
    """Parameters counted the paper's way (its footnote 2): layers and region embeddings, nothing else."""
    counts = count_parameters(trunk)
    return counts["region embeddings"] + counts["cross-modality layers"]
