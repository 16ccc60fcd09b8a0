"""The backbone: embeddings, layers and poolers of LXMERT-S (paper section 3, figure 2) or an encoder of its family.

B batch, T text tokens, R regions, F feature width, H hidden size; S region slots: 1 + R with a visual [CLS], else R.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.model.embeddings import RegionEmbedding, TextEmbedding
from msp_ds.model.layers import SelfLayer
from msp_ds.model.positions import TargetStates
from msp_ds.model.streams import STREAMS
from msp_ds.records import Batch, Encoded


class Backbone(nn.Module):
    """Embeddings, layers and poolers: what a stage hands on to the next."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.text = TextEmbedding(config)
        self.regions = RegionEmbedding(config)
        self.language_layers = nn.ModuleList(SelfLayer(config) for _ in range(config.language_layers))
        self.region_layers = nn.ModuleList(SelfLayer(config) for _ in range(config.region_layers))
        self.layers = STREAMS[config.encoder](config)
        self.text_pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.region_pooler = nn.Linear(config.hidden_size, config.hidden_size) if config.visual_cls else None
        initialise(self, config.init_std)
        # A masked region has the zero feature. With a zero bias LayerNorm would see the zero vector, whose gradient is
        # 1 / sqrt(eps) = 1e6 times too large: clipping would shrink every other gradient to nothing.
        nn.init.normal_(self.regions.feature.bias, std=config.init_std)

    def forward(self, batch: Batch, targets: TargetStates | None = None) -> Encoded:
        """Encode a batch; the region states come without the visual [CLS].

        targets: the states of text [B, T] and regions [B, R] that will be read. The last layer computes these alone and
        the others are zero; None for all.
        """
        text = self.embed_texts(batch.token_ids, batch.word_positions, batch.token_mask)
        regions, region_mask = self.embed_images(batch.features, batch.boxes, batch.region_mask)
        first = int(self.config.visual_cls)
        if targets is not None:  # the pair needs the [CLS] states too
            target_regions = targets.regions.after_prepended() if self.config.visual_cls else targets.regions
            targets = TargetStates(text=targets.text.with_first(), regions=target_regions)
        text, regions = self.layers(text, regions, batch.token_mask, region_mask, targets=targets)
        return Encoded(text=text, regions=regions[:, first:], pair=self.pool(text, regions))

    def embed_texts(self, token_ids: Tensor, word_positions: Tensor, token_mask: Tensor) -> Tensor:
        """Encode texts alone: states [B, T, H] from int64 ids and word positions and a bool mask, [B, T] each."""
        text = self.text(token_ids, word_positions)
        for layer in self.language_layers:
            text = layer(text, token_mask)
        return text  # type: ignore[no-any-return]

    def embed_images(self, features: Tensor, boxes: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images alone: states [B, S, H] and their bool mask [B, S].

        features: [B, R, F]; boxes: float32 [B, R, 4], x0 y0 x1 y1 as fractions of the image's size; region_mask: bool
        [B, R].
        """
        regions = self.regions(features, boxes)
        mask = F.pad(region_mask, (int(self.config.visual_cls), 0), value=True)  # the visual [CLS] is always there
        for layer in self.region_layers:
            regions = layer(regions, mask)
        return regions, mask

    def pool(self, text: Tensor, regions: Tensor) -> Tensor:
        """Pool the [CLS] states, the first of text [B, T, H] and regions [B, S, H], into the states of pairs [B, H].

        pair = tanh(W_t text[0]) * tanh(W_r regions[0]), elementwise; without a visual [CLS], the first factor alone.
        """
        # Copies, so that the backward pass keeps one state and not its whole sequence.
        pair = torch.tanh(self.text_pooler(text[:, 0].contiguous()))
        if self.region_pooler is None:
            return pair
        return pair * torch.tanh(self.region_pooler(regions[:, 0].contiguous()))


def initialise(module: nn.Module, std: float) -> None:
    """BERT's start: weight matrices N(0, std), biases 0, LayerNorms 1 and 0 (docs/tasks.md, Initialisation)."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def count_parameters(backbone: Backbone) -> dict[str, int]:
    """Count the parameters of each part in the order of the forward pass; absent parts are left out."""
    cls_feature, pooler = backbone.regions.cls_feature, backbone.region_pooler
    counts = {
        "text embeddings": _size(backbone.text),
        "region embeddings": _size(*backbone.regions.children()),
        "language layers": _size(backbone.language_layers),
        "region layers": _size(backbone.region_layers),
        backbone.layers.title: _size(backbone.layers),
        "text pooler": _size(backbone.text_pooler),
        "region pooler": 0 if pooler is None else _size(pooler),
        "visual [CLS] feature": 0 if cls_feature is None else cls_feature.numel(),
    }
    return {name: count for name, count in counts.items() if count}


def paper_count(backbone: Backbone) -> int:
    """Parameters counted the paper's way (its footnote 2): layers and region embeddings, nothing else."""
    return _size(*backbone.regions.children(), backbone.language_layers, backbone.region_layers, backbone.layers)


def _size(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())
