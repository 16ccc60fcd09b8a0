"""The heads that read the backbone's states; each runs on the N target positions only (docs/tasks.md, Heads).

B pairs, N target positions, H hidden size, V vocabulary, C object classes, A attributes or answers, F feature width.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.config import ModelConfig
from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone, initialise
from msp_ds.stateless_random import HEAD_WEIGHTS, key_of


class Transform(nn.Module):
    """Linear, GELU, LayerNorm, as before BERT's decoders."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """Transformed states [N, H] from states [N, H]."""
        return self.norm(F.gelu(self.dense(states)))  # type: ignore[no-any-return]


class TokenHead(nn.Module):
    """Predicts masked word pieces; the decoder is tied to the word embeddings."""

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        initialise(self, config.init_std)
        self.decoder.weight = backbone.text.word.weight

    def forward(self, text: Tensor) -> Tensor:
        """Logits [N, V] from text states [N, H]."""
        return self.decoder(self.transform(text))  # type: ignore[no-any-return]


class RegionHead(nn.Module):
    """Transforms region states, gates them by the pair, and decodes object, attribute and feature.

    MRFR and IFRS share the feature decoder, as in the released checkpoints.
    """

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.gated = config.region_gate == "pair"
        self.object_decoder = _label_decoder(config.hidden_size, config.num_objects)
        self.attribute_decoder = _label_decoder(config.hidden_size, config.num_attributes)
        self.feature_decoder = nn.Linear(config.hidden_size, config.feature_width)
        initialise(self, config.init_std)

    def forward(self, regions: Tensor, pair: Tensor) -> Tensor:
        """Gated states [N, H] from region states [N, H] and the state of each region's pair [N, H]."""
        states = self.transform(regions)
        return cast(Tensor, states * pair if self.gated else states)

    def objects(self, gated: Tensor) -> Tensor:
        """Logits [N, C] of the object."""
        return cast(Tensor, self.object_decoder(gated))

    def attributes(self, gated: Tensor) -> Tensor:
        """Logits [N, A] of the attribute."""
        return cast(Tensor, self.attribute_decoder(gated))

    def features(self, gated: Tensor) -> Tensor:
        """Predicted features [N, F]."""
        return cast(Tensor, self.feature_decoder(gated))


def _label_decoder(hidden_size: int, num_labels: int) -> nn.Linear:
    """A decoder, which has no outputs where the regions have no labels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.Linear(hidden_size, num_labels)


class TopicHead(nn.Module):
    """Predicts which word pieces are topics of a pair: LayerNorm(GELU(Linear)) as released, or a plain Linear."""

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.vocab_size)
        self.norm = nn.LayerNorm(config.vocab_size, eps=config.layer_norm_eps)
        self.plain = config.topic_head == "plain"
        if self.plain:
            self.norm = nn.Identity()  # type: ignore[assignment]
        initialise(self, config.init_std)
        last = self.dense if self.plain else self.norm
        nn.init.constant_(last.bias, math.log(config.topic_prior / (1 - config.topic_prior)))

    def forward(self, pair: Tensor) -> Tensor:
        """Logits [B, V] from pairs [B, H]."""
        scores = self.dense(pair)
        return cast(Tensor, scores if self.plain else self.norm(F.gelu(scores)))


class MatchHead(nn.Module):
    """Predicts whether text and image match; index 1 means that they do."""

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 2)
        initialise(self, config.init_std)

    def forward(self, pair: Tensor) -> Tensor:
        """Logits [B, 2] from pairs [B, H]."""
        return cast(Tensor, self.dense(pair))


class AnswerHead(nn.Module):
    """LXMERT's fine-tuning head: Linear, GELU, LayerNorm, Linear (docs/evaluation.md, Fine-tuning heads and losses)."""

    def __init__(
        self, config: ModelConfig, backbone: Backbone, *, num_pairs: int = 1, num_answers: int | None = None
    ) -> None:
        super().__init__()
        width = 2 * config.hidden_size
        self.dense = nn.Linear(num_pairs * config.hidden_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(width, config.num_answers if num_answers is None else num_answers)
        initialise(self, config.init_std)

    def forward(self, pair: Tensor) -> Tensor:
        """Logits over the answers from n pairs side by side, [B, n H]."""
        return cast(Tensor, self.decoder(self.norm(F.gelu(self.dense(pair)))))


HEADS: dict[str, Callable[[ModelConfig, Backbone], nn.Module]] = {
    "token": TokenHead,
    "region": RegionHead,
    "topic": TopicHead,
    "match": MatchHead,
}
"""Heads of pre-training, by the names in Task.heads."""

BENCHMARK_HEADS: dict[str, Callable[[ModelConfig, Backbone], nn.Module]] = {
    "answer": AnswerHead,
    "statement": partial(AnswerHead, num_pairs=2, num_answers=2),  # index 1: true of both images
}
"""Heads of fine-tuning."""

ALL_HEADS = HEADS | BENCHMARK_HEADS


def build_heads(names: Iterable[str], config: ModelConfig, backbone: Backbone) -> nn.ModuleDict:
    """Build fresh heads. A head's initial weights depend on torch's seed and its name, not on the other heads."""
    wanted = sorted(set(names))
    unknown = [name for name in wanted if name not in ALL_HEADS]
    if unknown:
        raise InputError(f"no head is called {unknown[0]!r}; heads are {', '.join(ALL_HEADS)}")
    seed = torch.initial_seed()
    heads = nn.ModuleDict()
    for name in wanted:
        torch.manual_seed(key_of(HEAD_WEIGHTS.format(name=name, seed=seed)))
        heads[name] = ALL_HEADS[name](config, backbone)
    return heads
