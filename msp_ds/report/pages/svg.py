"""Small drawings for pages: histograms, and an image's boxes to scale. Colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from msp_ds.report.box_map import chosen_regions

_WIDTH, _HEIGHT, _FOOT, _MARGIN = 520, 180, 24, 16
_TICKS = 6
_NAMED_BOXES = 14
"""Labels written into a picture; the others show under the pointer."""
_HUES = (210, 25, 140, 285, 50, 340, 175, 95, 255, 5)


def histogram(starts: Sequence[float], counts: Sequence[int], *, bar: float, what: str) -> str:
    """Bars from each of `starts` on, `bar` wide in the same unit; `what` names the drawing for screen readers."""
    low, high = starts[0], starts[-1] + bar
    is_whole = all(isinstance(start, int) for start in starts)
    scale, tallest = (_WIDTH - 2 * _MARGIN) / (high - low), max(counts)
    bars = []
    for start, count in zip(starts, counts, strict=True):
        height = count / tallest * (_HEIGHT - _FOOT - 16)
        left, wide = _MARGIN + (start - low) * scale, max(0.8, bar * scale - 1)
        tip = f"{_number(start)}: {count:,}" if is_whole else f"{_number(start)} to {_number(start + bar)}: {count:,}"
        bars.append(
            f'<rect x="{left:.1f}" y="{_HEIGHT - _FOOT - height:.1f}" width="{wide:.1f}" height="{height:.1f}">'
            f"<title>{tip}</title></rect>"
        )
    # Whole numbers stand under the middle of their bar, limits of ranges under its edge.
    shift = 0.5 if is_whole else 0.0
    ticks = "".join(
        f'<text x="{_MARGIN + (start + shift - low) * scale:.1f}" y="{_HEIGHT - 7}">{_number(start)}</text>'
        for start in _ticks(starts)
    )
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(what)}">'
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT - _FOOT}" y2="{_HEIGHT - _FOOT}"/>{"".join(bars)}'
        f'<text x="{_MARGIN}" y="11" class="peak">{tallest:,}</text>{ticks}</svg>'
    )


def boxes_to_scale(
    sample: dict[str, Any], *, picture: str = "", styles: Sequence[str] = (), named: Sequence[int] | None = None
) -> str:
    """A sample of data.inspection as boxes in its image's frame, the `named` ones with their names where there is room.

    By default these are the largest of different labels. picture: the image file as a data: address, laid behind the
    boxes. styles: CSS for each box.
    """
    width, height, boxes, labels = (sample[name] for name in ("width", "height", "boxes", "labels"))
    size = max(width, height) / 34
    chosen = chosen_regions(boxes, labels, most=_NAMED_BOXES) if named is None else named
    names = placed_names(sample, chosen, size=size)
    kinds = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    drawn = []
    # The named ones last, so that nothing is drawn over a name.
    for place in sorted(range(len(boxes)), key=lambda number: (number in names, -_area(boxes[number]))):
        x0, y0, x1, y1 = boxes[place]
        name = escape(labels[place] or "no label")
        tip = f"{place}: {escape(sample['attributes'][place])} {name}, {sample['scores'][place]:.2f}"
        drawn.append(
            f'<g class="{"named" if place in names else "plain"}" '
            f'style="--hue:{_HUES[kinds[labels[place]] % len(_HUES)]}{styles[place] if styles else ""}">'
            f'<rect x="{x0:.1f}" y="{y0:.1f}" '
            f'width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" vector-effect="non-scaling-stroke">'
            f"<title>{tip}</title></rect>"
        )
        if place in names:
            left, base = names[place]
            drawn.append(f'<text x="{left:.1f}" y="{base:.1f}" font-size="{size:.1f}">{name}</text>')
        drawn.append("</g>")
    behind = (
        f'<image href="{escape(picture)}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
        if picture
        else ""
    )
    return (
        f'<svg class="picture{" photo" if picture else ""}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="boxes of {escape(sample["image_id"])}">'
        f'<rect class="frame" width="{width}" height="{height}"/>{behind}{"".join(drawn)}</svg>'
    )


def placed_names(sample: dict[str, Any], places: Sequence[int], *, size: float) -> dict[int, tuple[float, float]]:
    """Region -> where its name begins: in the upper left corner of its box, within the picture, on no other name.

    places: the regions to name, the most important first. size: of the letters, in pixels of the image.
    """
    placed: dict[int, tuple[float, float]] = {}
    taken: list[tuple[float, float, float]] = []
    for place in places:
        wide = (len(sample["labels"][place]) + 1) * size * 0.62
        left = max(0.0, min(sample["boxes"][place][0] + size * 0.25, sample["width"] - wide))
        base = min(sample["boxes"][place][1] + size, sample["height"] - size * 0.25)
        if sample["labels"][place] and all(
            abs(base - other) >= size or end <= left or left + wide <= start for start, end, other in taken
        ):
            placed[place] = (left, base)
            taken.append((left, left + wide, base))
    return placed


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _ticks(starts: Sequence[float]) -> list[float]:
    step = max(1, -(-len(starts) // _TICKS))
    return list(starts[::step])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"
