"""What a training step is measured against: transformers' LXMERT, and LXMERT-S in the manner of its released code.

Both take texts padded to a fixed length and run every head on every position, masked or not. Imported by step.py.

B batch, T text tokens, R regions, S region slots with the visual [CLS], H hidden size, F feature width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LxmertConfig, LxmertForPreTraining

from msp_ds.config import ModelConfig
from msp_ds.records import IGNORE, Batch
from msp_ds.tasks.scoring import full_precision
from msp_ds.tasks.task import Context
from msp_ds.tasks.topics import topic_targets

NOT_ASKED = -100
"""The label that torch's cross-entropy leaves out."""


def transformers_lxmert(config: ModelConfig) -> LxmertForPreTraining:
    """LXMERT with no layers of one modality, masked words, masked regions and matching."""
    return LxmertForPreTraining(
        LxmertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            l_layers=config.language_layers,
            r_layers=config.region_layers,
            x_layers=config.num_layers,
            visual_feat_dim=config.feature_width,
            num_object_labels=config.num_objects,
            num_attr_labels=config.num_attributes,
            task_qa=False,
        )
    )


def transformers_inputs(clean: Batch, corrupted: Batch) -> dict[str, object]:
    """A corrupted batch as transformers' LXMERT takes it, with the labels of all its losses."""
    masked = corrupted.corruption.masked_regions
    return {
        "input_ids": corrupted.token_ids,
        "token_type_ids": torch.zeros_like(corrupted.token_ids),
        "attention_mask": corrupted.token_mask.float(),
        "visual_feats": corrupted.features.float(),
        "visual_pos": corrupted.boxes,
        "visual_attention_mask": corrupted.region_mask.float(),
        "labels": torch.where(corrupted.corruption.masked_tokens, clean.token_ids, NOT_ASKED),
        "matched_label": corrupted.corruption.matched.long(),
        "obj_labels": {
            "obj": (clean.object_ids.clamp(min=0), clean.object_scores * masked),
            "attr": (clean.attribute_ids.clamp(min=0), clean.attribute_scores * masked),
            "feat": (clean.features.float(), masked.float()),
        },
    }


class PlainAttention(nn.Module):
    """Scores, a mask of large negative numbers, softmax and dropout, each an operation of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        width = config.hidden_size
        self.query, self.key, self.value, self.dense = (nn.Linear(width, width) for _ in range(4))
        self.attention_dropout, self.dropout = nn.Dropout(config.dropout), nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """[B, S, H] of `states` [B, S, H] looking at `memory` [B, M, H]; mask: float [B, 1, 1, M], added to scores."""
        query, key, value = (
            layer(source).view(*source.shape[:2], self.num_heads, -1).permute(0, 2, 1, 3)
            for layer, source in ((self.query, states), (self.key, memory), (self.value, memory))
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask
        seen = self.attention_dropout(scores.softmax(-1)) @ value
        seen = seen.permute(0, 2, 1, 3).contiguous().view(*states.shape)
        return self.norm(self.dropout(self.dense(seen)) + states)  # type: ignore[no-any-return]


class PlainFeedForward(nn.Module):
    """Wide, GELU, narrow, dropout, residual, LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wide = nn.Linear(config.hidden_size, config.intermediate_size)
        self.narrow = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """[B, S, H] from [B, S, H]."""
        return self.norm(self.dropout(self.narrow(F.gelu(self.wide(states)))) + states)  # type: ignore[no-any-return]


class PlainLayer(nn.Module):
    """A cross-modality layer: every row of both streams, in every layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cross, self.text_self, self.region_self = (PlainAttention(config) for _ in range(3))
        self.text_think, self.region_think = PlainFeedForward(config), PlainFeedForward(config)

    def forward(self, text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """New text [B, T, H] and regions [B, S, H]."""
        seen = self.cross(text, regions, region_mask), self.cross(regions, text, text_mask)
        text = self.text_self(seen[0], seen[0], text_mask)
        regions = self.region_self(seen[1], seen[1], region_mask)
        return self.text_think(text), self.region_think(regions)


def transform(config: ModelConfig, width: int) -> nn.Sequential:
    """Linear, GELU and LayerNorm."""
    norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
    return nn.Sequential(nn.Linear(config.hidden_size, width), nn.GELU(), norm)


class ReleasedManner(nn.Module):
    """LXMERT-S as its released code goes about it: a table of 30,522 visual [CLS] features of which one is used, all
    heads on all positions, accuracies from the whole logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.word = nn.Embedding(config.vocab_size, width, padding_idx=0)
        self.position = nn.Embedding(config.max_positions, width, padding_idx=0)
        self.kind = nn.Embedding(2, width, padding_idx=0)
        self.text_norm, self.feature_norm, self.box_norm = (nn.LayerNorm(width, eps=eps) for _ in range(3))
        self.visual_word = nn.Embedding(config.vocab_size, config.feature_width, padding_idx=0)
        self.feature, self.box = nn.Linear(config.feature_width, width), nn.Linear(4, width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(PlainLayer(config) for _ in range(config.num_layers))
        self.text_pooler, self.region_pooler = nn.Linear(width, width), nn.Linear(width, width)
        self.token_transform, self.region_transform = transform(config, width), transform(config, width)
        self.token_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.objects, self.attributes = nn.Linear(width, config.num_objects), nn.Linear(width, config.num_attributes)
        self.features = nn.Linear(width, config.feature_width)
        self.topics, self.match = transform(config, config.vocab_size), nn.Linear(width, 2)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.normal_(part.weight, std=config.init_std)

    def forward(self, clean: Batch, corrupted: Batch, context: Context) -> Tensor:
        """The sum of the sentence stage's losses; fp32 scalar."""
        text, regions, pair = self._encode(corrupted)
        return (
            self._token_loss(text, clean, corrupted)
            + self._region_losses(regions, pair, clean, corrupted)
            + (self._pair_losses(pair, clean, corrupted, context))
        )

    def _encode(self, corrupted: Batch) -> tuple[Tensor, Tensor, Tensor]:
        ids, pairs = corrupted.token_ids, len(corrupted.token_ids)
        text = self.word(ids) + self.position(corrupted.word_positions) + self.kind(torch.zeros_like(ids))
        text = self.dropout(self.text_norm(text))
        cls_feature = self.visual_word(torch.full_like(ids[:, :1], 101))
        features = torch.cat((cls_feature, corrupted.features.float()), dim=1)
        whole = corrupted.boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(pairs, 1, 4)
        boxes = self.box_norm(self.box(torch.cat((whole, corrupted.boxes), dim=1)))
        regions = self.dropout((self.feature_norm(self.feature(features)) + boxes) / 2)
        masks = corrupted.token_mask, F.pad(corrupted.region_mask, (1, 0), value=True)
        text_mask, region_mask = ((1.0 - mask.float())[:, None, None, :] * -10000.0 for mask in masks)
        for layer in self.layers:
            text, regions = layer(text, regions, text_mask, region_mask)
        pair = torch.tanh(self.text_pooler(text[:, 0])) * torch.tanh(self.region_pooler(regions[:, 0]))
        return text, regions[:, 1:], pair

    def _token_loss(self, text: Tensor, clean: Batch, corrupted: Batch) -> Tensor:
        logits = F.linear(self.token_transform(text), self.word.weight, self.token_bias)
        labels = torch.where(corrupted.corruption.masked_tokens, clean.token_ids, NOT_ASKED)
        (logits.argmax(-1) == labels).sum()
        return F.cross_entropy(full_precision(logits.flatten(0, 1)), labels.flatten(), ignore_index=NOT_ASKED)

    def _region_losses(self, regions: Tensor, pair: Tensor, clean: Batch, corrupted: Batch) -> Tensor:
        gated, masked = self.region_transform(regions) * pair[:, None], corrupted.corruption.masked_regions.float()
        total = gated.new_zeros(())
        for decoder, labels, scores in (
            (self.objects, clean.object_ids, clean.object_scores),
            (self.attributes, clean.attribute_ids, clean.attribute_scores),
        ):
            logits = full_precision(decoder(gated).flatten(0, 1))
            (logits.argmax(-1) == labels.flatten()).sum()
            losses = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE, reduction="none")
            total = total + (losses * (scores * masked).flatten()).mean() / 0.15
        features = full_precision(self.features(gated))
        errors = F.smooth_l1_loss(features, clean.features.to(features.dtype), reduction="none").mean(-1)
        return total + (errors * masked).mean() / 0.15

    def _pair_losses(self, pair: Tensor, clean: Batch, corrupted: Batch, context: Context) -> Tensor:
        topics = full_precision(self.topics(pair))
        found = topic_targets(clean, context, attributes=False)
        wanted = torch.zeros_like(topics).scatter_reduce_(1, found.pieces, found.wanted.to(topics.dtype), "amax")
        ((topics > 0) == (wanted > 0)).float().mean()
        matching = F.cross_entropy(full_precision(self.match(pair)), corrupted.corruption.matched.long())
        return matching + F.binary_cross_entropy_with_logits(topics, wanted)
