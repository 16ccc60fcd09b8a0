"""SVG drawings for pages: histograms, and an image's boxes to scale. Colours come from the page's style sheet."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from msp_ds.report.pages.page import render
from msp_ds.training.monitoring.box_layout import largest_first, place_labels, prominent_boxes

_WIDTH, _HEIGHT, _FOOT, _MARGIN = 520, 180, 24, 16
_MAX_TICKS = 6
_NAMED_BOXES = 14
"""Labels written into a drawing; the others show under the pointer."""
_HUES = (210, 25, 140, 285, 50, 340, 175, 95, 255, 5)
_LETTER_WIDTH = 0.62
"""Average width of a letter over the height of its line: SVG cannot be measured here."""


def histogram(starts: Sequence[float], counts: Sequence[int], *, bar: float, what: str) -> Markup:
    """Return bars that begin at `starts` and are `bar` wide in the same unit; screen readers read `what`."""
    low, high = starts[0], starts[-1] + bar
    is_whole = all(isinstance(start, int) for start in starts)
    scale, peak, floor = (_WIDTH - 2 * _MARGIN) / (high - low), max(counts), _HEIGHT - _FOOT
    bars = [
        {
            "x": _MARGIN + (start - low) * scale,
            "y": floor - count / peak * (floor - 16),
            "width": max(0.8, bar * scale - 1),
            "tip": f"{_number(start)}{'' if is_whole else f' to {_number(start + bar)}'}: {count:,}",
        }
        for start, count in zip(starts, counts, strict=True)
    ]
    # Whole numbers stand under the middle of their bar, limits of ranges under its edge.
    shift = 0.5 if is_whole else 0.0
    ticks = [
        {"x": _MARGIN + (start + shift - low) * scale, "text": _number(start)}
        for start in starts[:: -(-len(starts) // _MAX_TICKS)]
    ]
    size = {"width": _WIDTH, "height": _HEIGHT, "floor": floor, "margin": _MARGIN}
    return render("histogram.svg", **size, what=what, bars=bars, ticks=ticks, peak=f"{peak:,}")


def boxes_to_scale(
    sample: dict[str, Any], *, picture: str = "", styles: Sequence[str] = (), named: Sequence[int] | None = None
) -> Markup:
    """Return the boxes of an image in its frame, the `named` ones with their names where there is space.

    sample: an image as preparation.verifying.inspection describes it. picture: the image file as a data: address,
    drawn behind the boxes. styles: CSS for each box. named: box indices, by default the largest of different labels.
    """
    width, height, boxes, labels = (sample[name] for name in ("width", "height", "boxes", "labels"))
    size = max(width, height) / 34
    chosen = prominent_boxes(boxes, labels, most=_NAMED_BOXES) if named is None else named
    corners = place_labels(
        boxes,
        {index: labels[index] for index in chosen},
        canvas=(width, height),
        height=size,
        width_of=lambda text: (len(text) + 1) * size * _LETTER_WIDTH,
    )
    hues = {label: _HUES[number % len(_HUES)] for number, label in enumerate(dict.fromkeys(labels))}
    drawn = []
    # The named boxes come last, so that nothing is drawn over a name.
    for index in sorted(largest_first(boxes), key=lambda index: index in corners):
        x0, y0, x1, y1 = boxes[index]
        name = labels[index] or "no label"
        tip = f"{index}: {sample['attributes'][index]} {name}, {sample['scores'][index]:.2f}"
        style = f"--hue:{hues[labels[index]]}{styles[index] if styles else ''}"
        size_of_box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
        drawn.append({**size_of_box, "name": name, "tip": tip, "style": style, "corner": corners.get(index)})
    size_and_id = {"width": width, "height": height, "size": size, "image_id": sample["image_id"]}
    return render("boxes.svg", **size_and_id, boxes=drawn, picture=picture)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"
