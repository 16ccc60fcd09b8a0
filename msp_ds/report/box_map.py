"""An image's largest boxes drawn to scale with characters, for the terminal."""

from typing import Any

from rich.cells import cell_len

from msp_ds.terminal import printable
from msp_ds.training.monitoring.box_layout import prominent_boxes, scaled_boxes

COLUMNS, MAX_LINES = 76, 20
BOXES_DRAWN = 7
_CELL_RATIO = 2.0  # height of a character over its width


def box_map(sample: dict[str, Any]) -> list[str]:
    """Return the lines of the drawing in its frame, at most COLUMNS + 2 wide.

    sample: an image as preparation.verifying.inspection describes it.
    """
    width, height, boxes, labels = (sample[name] for name in ("width", "height", "boxes", "labels"))
    columns, lines = _grid(width, height)
    cells = [[" "] * columns for _ in range(lines)]
    scaled = scaled_boxes(boxes, image=(width, height), canvas=(columns, lines))
    for index in prominent_boxes(boxes, labels, most=BOXES_DRAWN):
        left, top, right, bottom = scaled[index]
        if right > left and bottom > top:
            _draw(cells, scaled[index], label=labels[index])
    edge = "┄" * columns
    return [f"╭{edge}╮", *(f"┆{''.join(row)}┆" for row in cells), f"╰{edge}╯"]


def _grid(width: float, height: float) -> tuple[int, int]:
    """Columns and lines of a drawing that keeps the image's aspect ratio and fits."""
    lines = COLUMNS * height / width / _CELL_RATIO
    shrink = min(1.0, MAX_LINES / lines)
    return max(12, round(COLUMNS * shrink)), max(5, round(lines * shrink))


def _draw(cells: list[list[str]], corners: tuple[int, int, int, int], *, label: str) -> None:
    left, top, right, bottom = corners
    inner = right - left - 1
    cells[top][left : right + 1] = ["┌", *_label_cells(label, inner), "┐"]
    for line in range(top + 1, bottom):
        cells[line][left : right + 1] = ["│", *" " * inner, "│"]
    cells[bottom][left : right + 1] = ["└", *"─" * inner, "┘"]


def _label_cells(text: str, count: int) -> list[str]:
    """`count` cells with the text and a line after it; the second cell of a wide character is empty."""
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
