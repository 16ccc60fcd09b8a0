"""Layout of an image's boxes in a drawing: their order, their scale, which of them are named, and where the names go.

The renderers share it: characters (report/box_map.py), SVG (report/pages/svg.py) and pixels
(report/pages/explain_picture.py and sample_picture.py here). A box is x0 y0 x1 y1.
"""

from collections.abc import Callable, Mapping, Sequence

Box = Sequence[float]

_SAME_IOU = 0.6  # two boxes of at least this intersection over union look like one


def largest_first(boxes: Sequence[Box]) -> list[int]:
    """Return the indices of the boxes by falling area. Drawn in this order, small boxes stay visible on large ones."""
    return sorted(range(len(boxes)), key=lambda index: -_area(boxes[index]))


def prominent_boxes(boxes: Sequence[Box], labels: Sequence[str], *, most: int) -> list[int]:
    """Return the indices of the largest boxes, largest first: one a label, and no two that look like one box."""
    chosen: list[int] = []
    for index in largest_first(boxes):
        is_new = not labels[index] or labels[index] not in {labels[other] for other in chosen}
        if is_new and all(iou(boxes[index], boxes[other]) < _SAME_IOU for other in chosen):
            chosen.append(index)
    return chosen[:most]


def scaled_boxes(
    boxes: Sequence[Box], *, image: tuple[float, float], canvas: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """Return the boxes in whole cells or pixels of a canvas, clipped to it.

    image: width and height in the boxes' unit. canvas: width and height in cells or pixels.
    """

    def scaled(value: float, axis: int) -> int:
        last = canvas[axis] - 1
        return min(last, max(0, round(value / image[axis] * last)))

    corners = ([scaled(value, place % 2) for place, value in enumerate(box)] for box in boxes)
    return [(x0, y0, max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in corners]


def place_labels(
    boxes: Sequence[Box],
    labels: Mapping[int, str],
    *,
    canvas: tuple[float, float],
    height: float,
    width_of: Callable[[str], float],
) -> dict[int, tuple[float, float]]:
    """Return the upper left corner of each label, in the upper left corner of its box and inside the canvas.

    An empty label is left out, and so is one that would cover a label before it.

    labels: box index to text, the most important first. canvas: width and height in the boxes' unit. height: of a
    line of text. width_of: returns the width of a text.
    """
    placed: dict[int, tuple[float, float]] = {}
    spans: list[tuple[float, float, float]] = []
    for index, text in labels.items():
        width = width_of(text)
        left = max(0.0, min(boxes[index][0] + height / 4, canvas[0] - width))
        top = max(0.0, min(boxes[index][1], canvas[1] - 1.25 * height))
        if text and all(
            abs(top - other) >= height or end <= left or left + width <= start for start, end, other in spans
        ):
            placed[index] = (left, top)
            spans.append((left, left + width, top))
    return placed


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 if both are empty."""
    both = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    union = _area(one) + _area(other) - both
    return both / union if union else 0.0


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
