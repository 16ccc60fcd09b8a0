"""A shard set as tables and drawn samples for the terminal, 80 columns wide."""

from collections import Counter
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding

from msp_ds.report.box_map import box_map
from msp_ds.terminal import Table, printable, styled

_FOR_PAGES = "histogram"  # ending of the names of groups that only the page shows


def set_tables(facts: dict[str, Any]) -> list[RenderableType]:
    """Return the facts of preparation.verifying.inspection.inspect_set as tables and drawings."""
    facts = dict(facts)
    samples = facts.pop("samples")
    shown: list[RenderableType] = []
    for title, group in facts.items():
        table = Table(title=title, title_style="bold", show_header=False, width=80)
        table.add_column(max_width=28)
        table.add_column()
        for name, value in _flat(group).items():
            table.add_row(name.replace("_", " "), as_text(value))
        shown.append(table)
    return shown + [part for sample in samples for part in sample_lines(sample)]


def as_text(value: Any) -> str:
    """Return a value of the facts as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "  ".join(f"{key} {as_text(part)}" for key, part in value.items())
    return "none" if value is None else str(value)


def _flat(group: dict[str, Any]) -> dict[str, Any]:
    """Flatten nested groups under joined names; spreads and frequencies stay one value each."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if name.endswith(_FOR_PAGES):
            continue
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            flat |= {f"{name} {inner}": part for inner, part in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def sample_lines(sample: dict[str, Any]) -> list[RenderableType]:
    """Return an image for the terminal: heading, drawing, labels with their counts, texts, source."""
    heading = f"{sample['image_id']}  {sample['width']} x {sample['height']} pixels, {sample['regions']} regions"
    counts = Counter(label or "(no label)" for label in sample["labels"])
    labels = ", ".join(label if count == 1 else f"{label} x{count}" for label, count in counts.most_common())
    texts = "\n".join(f"“{printable(text)}”" for text in sample["texts"])
    picture = styled("\n".join(box_map(sample)))
    picture.no_wrap = True
    return [
        styled(("\n" + printable(heading), "bold")),
        picture,
        Padding(styled(f"{printable(labels)}\n{texts}"), (0, 0, 0, 2)),
        styled((f"  {sample['source']}", "dim")),
    ]
