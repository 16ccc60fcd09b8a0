"""Checks of numbers from flags and files: a typing error or a damaged file gives one line, not a huge allocation."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from msp_ds.errors import InputError

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
"""Field of ModelConfig -> smallest and largest value, far beyond what is sensible."""
_MOST_WEIGHTS = 2_500_000_000
"""10 GB in fp32, nearly twenty times the paper's model."""


def check_number(name: str, value: Any) -> None:
    """Refuse a float that is not finite and an int beyond 64 bits; `name` is used in the message."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}: {value} is not a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{name}: the number does not fit into 64 bits")


def check_numbers(config: Any) -> None:
    """Check every number among the fields of a dataclass, and of its tuples and tables."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        table = (
            value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, tuple) else {"": value}
        )
        for key, number in table.items():
            check_number(f"{item.name}.{key}" if isinstance(value, dict) else item.name, number)


def size_fault(model: Mapping[str, Any]) -> str:
    """Return what is wrong with the sizes of a ModelConfig's fields; empty where nothing is."""
    for name, (least, most) in _SIZES.items():
        if not least <= model[name] <= most:
            return f"{name} {model[name]} is not in {least:,} to {most:,}"
    count = num_weights(model)
    if count > _MOST_WEIGHTS:
        return f"the model would have {count:,} weights; at most {_MOST_WEIGHTS:,} are possible here"
    return ""


def num_weights(model: Mapping[str, Any]) -> int:
    """Return the approximate number of weights of backbone and heads, without most biases."""
    hidden: int = model["hidden_size"]
    attention, feed_forward = 4 * hidden**2, 2 * hidden * model["intermediate_size"]
    block = attention + feed_forward
    layer = block + attention + block if model["encoder"] == "cross" else block
    layers: int = model["num_layers"] * layer + (model["language_layers"] + model["region_layers"]) * block
    # Words have weights in the embedding and the topic head, features in the embedding and the region head; the answer
    # head is twice as wide as H.
    rows: int = 2 * model["vocab_size"] + model["max_positions"] + 2 * model["feature_width"]
    rows += model["num_objects"] + model["num_attributes"] + 2 * model["num_answers"]
    return int(layers + rows * hidden)
