"""How large a model may be: a slip or a spoilt file ends in one line and not in an allocation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SIZES = {
    "hidden_size": (1, 1 << 15),
    "num_layers": (1, 256),
    "language_layers": (0, 256),
    "region_layers": (0, 256),
    "num_heads": (1, 1 << 15),
    "intermediate_size": (1, 1 << 17),
    "max_positions": (1, 1 << 20),
    "vocab_size": (1, 1 << 24),
    "feature_width": (1, 1 << 20),
    "num_objects": (0, 1 << 24),
    "num_attributes": (0, 1 << 24),
    "num_answers": (0, 1 << 24),
}
"""Field of ModelConfig -> the least and the most, far beyond what is sensible."""
_MOST_WEIGHTS = 2_500_000_000
"""10 GB of fp32, nearly twenty times the paper's model."""


def size_fault(model: Mapping[str, Any]) -> str:
    """What is wrong with the sizes among the fields of a ModelConfig; empty where nothing is."""
    for name, (least, most) in _SIZES.items():
        if not least <= model[name] <= most:
            return f"{name} {model[name]} is not in {least:,} to {most:,}"
    count = num_weights(model)
    if count > _MOST_WEIGHTS:
        return f"the model would have {count:,} weights; at most {_MOST_WEIGHTS:,} are possible here"
    return ""


def num_weights(model: Mapping[str, Any]) -> int:
    """About how many weights the backbone and the heads of a ModelConfig have, most biases left out."""
    hidden: int = model["hidden_size"]
    attention, feed_forward = 4 * hidden**2, 2 * hidden * model["intermediate_size"]
    block = attention + feed_forward
    layer = block + attention + block if model["encoder"] == "cross" else block
    layers: int = model["num_layers"] * layer + (model["language_layers"] + model["region_layers"]) * block
    # Words are in the embedding and in the topic head; features come in and go out; answers are read from twice H.
    rows: int = 2 * model["vocab_size"] + model["max_positions"] + 2 * model["feature_width"]
    rows += model["num_objects"] + model["num_attributes"] + 2 * model["num_answers"]
    return int(layers + rows * hidden)
