"""The heads worked out number by number in float64: what the fast ones are compared with (docs/tasks.md, Heads).

Nothing here uses torch's arithmetic; weights come in as nested lists under the names that checkpoints give them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Vector = list[float]
EPS = 1e-12
"""Of every LayerNorm (docs/tasks.md, The model)."""


def linear(weights: list[Vector], bias: Vector, x: Vector) -> Vector:
    """weights: a row an output."""
    return [
        offset + sum(w * one for w, one in zip(row, x, strict=True)) for row, offset in zip(weights, bias, strict=True)
    ]


def gelu(x: Vector) -> Vector:
    """The exact one, by the error function."""
    return [one * 0.5 * (1.0 + math.erf(one / math.sqrt(2.0))) for one in x]


def layer_norm(scale: Vector, offset: Vector, x: Vector) -> Vector:
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((one - mean) ** 2 for one in x) / len(x) + EPS)
    return [(one - mean) / spread * s + o for one, s, o in zip(x, scale, offset, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SlowHeads:
    """weights: by name, as `region.transform.dense.weight`."""

    weights: dict[str, Any]
    gated: bool
    """Whether region states are multiplied by the state of their pair."""
    plain_topics: bool
    """Whether topics are a Linear alone, or Linear, GELU and LayerNorm over the vocabulary."""

    def _linear(self, name: str, x: Vector) -> Vector:
        return linear(self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], x)

    def _norm(self, name: str, x: Vector) -> Vector:
        return layer_norm(self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], x)

    def _transform(self, name: str, x: Vector) -> Vector:
        return self._norm(f"{name}.norm", gelu(self._linear(f"{name}.dense", x)))

    def tokens(self, state: Vector) -> Vector:
        """A logit for each word piece."""
        return self._linear("token.decoder", self._transform("token.transform", state))

    def region(self, state: Vector, pair: Vector) -> Vector:
        """What the three decoders of a region read."""
        states = self._transform("region.transform", state)
        return [one * gate for one, gate in zip(states, pair, strict=True)] if self.gated else states

    def objects(self, region: Vector) -> Vector:
        """A logit for each object class."""
        return self._linear("region.object_decoder", region)

    def attributes(self, region: Vector) -> Vector:
        """A logit for each attribute class."""
        return self._linear("region.attribute_decoder", region)

    def feature(self, region: Vector) -> Vector:
        """The feature that the region is believed to have."""
        return self._linear("region.feature_decoder", region)

    def topics(self, pair: Vector) -> Vector:
        """A logit for each word piece."""
        scores = self._linear("topic.dense", pair)
        return scores if self.plain_topics else self._norm("topic.norm", gelu(scores))

    def match(self, pair: Vector) -> Vector:
        """Two logits; index 1 says that text and image belong together."""
        return self._linear("match.dense", pair)
