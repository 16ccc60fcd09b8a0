"""From word pieces and regions to hidden states (docs/tasks.md, The model).

B batch, T text tokens, R regions, F feature width, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.model.dropout import Dropout

PADDING = 0
"""Row of the word table, and of the table of word positions, that padding uses: the embedding gives it no gradient."""


class TextEmbedding(nn.Module):
    """LayerNorm(word + position + type), then dropout. Positions count words (docs/tasks.md, Word positions) or pieces.

    When pieces are counted, position 0 is that of the text's [CLS]. LXMERT uses row 0 of its table for padding and so
    never trains it; here it is trained.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=PADDING)
        self.counts_pieces = config.positions == "pieces"
        padding = None if self.counts_pieces else PADDING
        self.position = nn.Embedding(config.max_positions, config.hidden_size, padding_idx=padding)
        # Every token has type 0, which is the padding row of BERT's table: the vector is added but never trained.
        self.register_buffer("type_vector", torch.randn(config.hidden_size) * config.init_std)
        self.type_vector: Tensor
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, token_ids: Tensor, word_positions: Tensor) -> Tensor:
        """[B, T, H] from int64 [B, T] piece ids and int64 [B, T] word positions, unused where pieces are counted."""
        pieces = torch.arange(token_ids.shape[1], device=token_ids.device)
        words = self.word(token_ids) + self.position(pieces if self.counts_pieces else word_positions)
        # DeepSpeed's half precision converts parameters but not buffers.
        summed = words + self.type_vector.to(words.dtype)
        return self.dropout(self.norm(summed))  # type: ignore[no-any-return]


class RegionEmbedding(nn.Module):
    """The R regions: the mean of LayerNorm(feature) and LayerNorm(box), then dropout; before them the visual [CLS].

    The released code looks the [CLS] feature up in a 30,522 x 2048 table and uses only one row of it. One learnable
    feature with the whole image as its box is the same model. `visual_cls=False` leaves it out.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cls_feature: nn.Parameter | None = None
        if config.visual_cls:
            self.cls_feature = nn.Parameter(torch.randn(config.feature_width) * config.init_std)
        self.register_buffer("cls_box", torch.tensor([0.0, 0.0, 1.0, 1.0]), persistent=False)
        self.cls_box: Tensor
        self.feature = nn.Linear(config.feature_width, config.hidden_size)
        self.feature_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.box = nn.Linear(4, config.hidden_size)
        self.box_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[B, S, H] from features [B, R, F] and float32 [B, R, 4] boxes, x0 y0 x1 y1 as fractions of the image's size.

        S is 1 + R with a visual [CLS], which comes first, and R without.
        """
        projected = self.feature(features.to(self.feature.weight.dtype))
        if self.cls_feature is not None:
            # Projected on its own: concatenating it before would copy all features.
            one = F.linear(self.cls_feature[None, None], self.feature.weight, self.feature.bias)
            projected = torch.cat((one.expand(len(features), 1, -1), projected), dim=1)
            boxes = torch.cat((self.cls_box.to(boxes.dtype).expand(len(boxes), 1, 4), boxes), dim=1)
        positions = self.box(boxes.to(self.box.weight.dtype))
        return self.dropout((self.feature_norm(projected) + self.box_norm(positions)) / 2)  # type: ignore[no-any-return]
