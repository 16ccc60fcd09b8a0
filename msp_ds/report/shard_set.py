"""A shard set as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def set_tables(facts: dict[str, Any]) -> list[RenderableType]:
    """What data.inspection.inspect_set found, for people."""
    facts = dict(facts)
    samples = facts.pop("samples")
    shown: list[RenderableType] = []
    for title, group in facts.items():
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in _flat(group).items():
            table.add_row(name.replace("_", " "), _said(value))
        shown.append(table)
    for sample in samples:
        shown.append(Text("\n".join(f"{name}: {_said(value)}" for name, value in sample.items()) + "\n"))
    return shown


def _flat(group: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, names joined by a space; long inner tables stay a value."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            flat |= _flat(value, f"{prefix}{name} ")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "  ".join(f"{key}: {_said(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_said(part) for part in value)
    return str(value)
