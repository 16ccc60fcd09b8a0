"""An image as a terminal can show it: its largest boxes drawn to scale with characters, labels on their upper edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from msp_ds.terminal import printable

COLUMNS, MOST_LINES = 76, 20
BOXES_DRAWN = 7
_CELL_RATIO = 2.0
"""Height of a character over its width."""
_SAME = 0.6
"""Two boxes that share this much of what they cover together look like one."""

Box = Sequence[float]


def box_map(sample: dict[str, Any]) -> list[str]:
    """The lines of the picture of a sample of data.inspection, in a frame: at most COLUMNS and 2 wide."""
    width, height = sample["width"], sample["height"]
    columns, lines = _grid(width, height)
    cells = [[" "] * columns for _ in range(lines)]
    # From the largest to the smallest, each over what lies behind it: what is small stays in sight.
    for place in chosen_regions(sample["boxes"], sample["labels"]):
        x0, y0, x1, y1 = sample["boxes"][place]
        left, right = _cell(x0, width, columns), _cell(x1, width, columns)
        top, bottom = _cell(y0, height, lines), _cell(y1, height, lines)
        if right > left and bottom > top:
            _draw(cells, (left, top, right, bottom), label=sample["labels"][place])
    edge = "┄" * columns
    return [f"╭{edge}╮", *(f"┆{''.join(row)}┆" for row in cells), f"╰{edge}╯"]


def chosen_regions(boxes: Sequence[Box], labels: Sequence[str], *, most: int = BOXES_DRAWN) -> list[int]:
    """The numbers of the largest boxes of different labels, largest first, none almost on another."""
    chosen: list[int] = []
    for place in sorted(range(len(boxes)), key=lambda number: -_area(boxes[number])):
        is_new = labels[place] not in [label for label in (labels[other] for other in chosen) if label]
        if is_new and len(chosen) < most and all(_overlap(boxes[place], boxes[other]) < _SAME for other in chosen):
            chosen.append(place)
    return chosen


def _grid(width: float, height: float) -> tuple[int, int]:
    """Columns and lines of a picture that keeps the image's shape and fits."""
    lines = COLUMNS * height / width / _CELL_RATIO
    shrink = min(1.0, MOST_LINES / lines)
    return max(12, round(COLUMNS * shrink)), max(5, round(lines * shrink))


def _cell(place: float, extent: float, cells: int) -> int:
    return min(cells - 1, max(0, round(place / extent * (cells - 1))))


def _draw(cells: list[list[str]], corners: tuple[int, int, int, int], *, label: str) -> None:
    left, top, right, bottom = corners
    inner = right - left - 1
    cells[top][left : right + 1] = ["┌", *_in_cells(label, inner), "┐"]
    for line in range(top + 1, bottom):
        cells[line][left : right + 1] = ["│", *" " * inner, "│"]
    cells[bottom][left : right + 1] = ["└", *"─" * inner, "┘"]


def _in_cells(text: str, count: int) -> list[str]:
    """The text in `count` cells of a terminal, a line after it; the second cell of a wide character is empty."""
    cells: list[str] = []
    for one in printable(text):
        width = cell_len(one)
        if len(cells) + width > count:
            break
        if width:
            cells += [one, *[""] * (width - 1)]
        elif cells:
            cells[-1] += one
    return cells + ["─"] * (count - len(cells))


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    shared = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    covered = _area(one) + _area(other) - shared
    return shared / covered if covered else 0.0
