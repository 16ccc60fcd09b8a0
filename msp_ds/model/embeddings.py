"""From word pieces and regions to hidden states (FACTS 1.1, 1.2).

B batch, T text tokens, R regions, F feature width, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig

PADDING = 0
"""Row of the word and position tables that padding uses; it gets no gradient through the embedding."""


class TextEmbedding(nn.Module):
    """LayerNorm(word + position + type), then dropout. Positions count whole words (FACTS 1.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=PADDING)
        self.position = nn.Embedding(config.max_positions, config.hidden_size, padding_idx=PADDING)
        # Every token has type 0, which is the padding row of BERT's table: the vector is added but never trained.
        self.register_buffer("type_vector", torch.randn(config.hidden_size) * config.init_std)
        self.type_vector: Tensor
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_ids: Tensor, word_positions: Tensor) -> Tensor:
        """[B, T, H] from int64 [B, T] piece ids and int64 [B, T] word positions."""
        words = self.word(token_ids)
        # A buffer stays in fp32 where DeepSpeed keeps the weights in 16 bits.
        summed = words + self.position(word_positions) + self.type_vector.to(words.dtype)
        return self.dropout(self.norm(summed))  # type: ignore[no-any-return]


class RegionEmbedding(nn.Module):
    """The visual [CLS] and the R regions: the mean of LayerNorm(feature) and LayerNorm(box), then dropout.

    The released code looks the [CLS] feature up in a 30 522 x 2048 table of which it only ever uses one row; one
    learnable feature with the whole image as its box is the same model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cls_feature = nn.Parameter(torch.randn(config.feature_width) * config.init_std)
        self.register_buffer("cls_box", torch.tensor([0.0, 0.0, 1.0, 1.0]), persistent=False)
        self.cls_box: Tensor
        self.feature = nn.Linear(config.feature_width, config.hidden_size)
        self.feature_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.box = nn.Linear(4, config.hidden_size)
        self.box_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[B, 1 + R, H] from features [B, R, F] and float32 [B, R, 4] boxes as shares of the image."""
        features = features.to(self.cls_feature.dtype)
        projected = torch.cat((self._project_cls(features), self.feature(features)), dim=1)
        whole_image = self.cls_box.to(boxes.dtype).expand(len(boxes), 1, 4)
        places = self.box(torch.cat((whole_image, boxes), dim=1).to(self.box.weight.dtype))
        return self.dropout((self.feature_norm(projected) + self.box_norm(places)) / 2)  # type: ignore[no-any-return]

    def _project_cls(self, features: Tensor) -> Tensor:
        """The projected [CLS] feature, [B, 1, H]; projected apart, so that the wide features are not copied."""
        one = F.linear(self.cls_feature[None, None], self.feature.weight, self.feature.bias)
        return one.expand(len(features), 1, -1)
