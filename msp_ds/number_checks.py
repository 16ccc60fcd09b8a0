"""Checks of numbers from flags and files."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from msp_ds.errors import InputError


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
