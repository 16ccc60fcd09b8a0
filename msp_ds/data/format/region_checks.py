"""Checks of an image's region features, made by the readers of all formats before anything is computed from them.

N regions of the image, F feature width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from msp_ds.data.format.faults import RowAt, RowError
from msp_ds.records import IGNORE, RegionRecord

_ONE_THREAD = 1 << 14
"""Numbers that torch converts in one thread."""
_HALF_INFINITY = 0x7C00
"""float16 bit patterns from here on, without the sign, are infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """The number of labels in each vocabulary, above all ids."""

    objects: int
    attributes: int


class RegionRow(NamedTuple):
    """The position of an image in a file of region features."""

    image_id: str
    """Canonical."""
    number: int
    """Number of the row in messages."""
    offset: int
    """Bytes before the row, uncompressed; 0 where the format does not need it."""
    length: int
    """Approximate number of bytes."""


class CheckedRegions(NamedTuple):
    """One image after the checks."""

    record: RegionRecord
    num_clipped: int
    """Number of boxes that were clipped at the image's edge."""


@dataclass(frozen=True, kw_only=True)
class RawRegions:
    """One image as it is in a file, before the checks."""

    place: RowAt
    """Includes the image's canonical id."""
    height: int
    width: int
    boxes: np.ndarray
    """[N, 4], x0 y0 x1 y1 in pixels."""
    features: np.ndarray
    """[N, F]."""
    object_ids: np.ndarray | None = None
    """[N], IGNORE or None where there is no label, as in the next three fields."""
    object_scores: np.ndarray | None = None
    attribute_ids: np.ndarray | None = None
    attribute_scores: np.ndarray | None = None


def checked(raw: RawRegions, *, labels: LabelCounts) -> CheckedRegions:
    """Return the record of one image, features as float16; without labels every id is IGNORE and every score 0.

    Raises: RowError when the size is not positive, a number is not finite or out of its range, or a label id lies
    outside its vocabulary.
    """
    if raw.height <= 0 or raw.width <= 0:
        raise RowError(raw.place, f"height {raw.height} and width {raw.width} should be positive pixels")
    boxes, num_clipped = _clipped(raw)
    record = RegionRecord(
        image_id=raw.place.image_id,
        source=f"{raw.place.name} row {raw.place.number}",
        height=raw.height,
        width=raw.width,
        features=_half(raw),
        boxes=boxes,
        object_ids=_label_ids(raw, "object", raw.object_ids, labels.objects),
        object_scores=_scores(raw, "object", raw.object_scores),
        attribute_ids=_label_ids(raw, "attribute", raw.attribute_ids, labels.attributes),
        attribute_scores=_scores(raw, "attribute", raw.attribute_scores),
    )
    return CheckedRegions(record, num_clipped)


def has_only_finite(features: np.ndarray) -> bool:
    """Return whether float16 `features` of any shape are all finite; five times as fast as np.isfinite."""
    bits = np.ascontiguousarray(features).view(np.uint16)
    return bits.size == 0 or int((bits & 0x7FFF).max()) < _HALF_INFINITY


def _half(raw: RawRegions) -> np.ndarray:
    """The features as float16 [N, F], rounded to nearest even."""
    # The copy makes the array contiguous, writable and of native byte order.
    source = torch.from_numpy(np.array(raw.features, order="C"))
    target = torch.empty(source.shape, dtype=torch.float16)
    # torch casts ten times as fast as numpy, except with several threads: on busy cores they wait for each other a
    # hundred times longer than the cast takes.
    for start in range(0, source.numel(), _ONE_THREAD):
        part = slice(start, start + _ONE_THREAD)
        target.view(-1)[part] = source.view(-1)[part]
    features: np.ndarray = target.numpy()
    if not has_only_finite(features):
        region, column = np.argwhere(~np.isfinite(features))[0]
        value = raw.features[region, column]
        raise RowError(
            raw.place, f"feature {column} of region {region} is {value}; features must be finite and within float16"
        )
    return features


def _clipped(raw: RawRegions) -> tuple[np.ndarray, int]:
    """The boxes as float32 [N, 4] inside the image, and how many had to be clipped.

    Boxes may end slightly outside because extractors round, as in LXMERT's own data.
    """
    boxes = np.array(raw.boxes, dtype=np.float32)
    if not np.isfinite(boxes).all():
        raise RowError(raw.place, "a box is not finite")
    reversed_boxes = np.flatnonzero((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    if reversed_boxes.size:
        first = reversed_boxes[0]
        raise RowError(raw.place, f"box {first} is {boxes[first].tolist()}; boxes should be x0 y0 x1 y1 in pixels")
    if 0 < boxes.max(initial=0) <= 1 and min(raw.height, raw.width) > 2:
        raise RowError(raw.place, "all boxes lie in the first pixel; they should be pixels, not fractions")
    inside = np.clip(boxes, 0, np.array([raw.width, raw.height] * 2, dtype=np.float32))
    return inside, int((inside != boxes).any(axis=1).sum())


def _label_ids(raw: RawRegions, kind: str, ids: np.ndarray | None, count: int) -> np.ndarray:
    """Label ids as int16 [N], each below `count`, or IGNORE."""
    if ids is None:
        return np.full(len(raw.boxes), IGNORE, dtype=np.int16)
    wrong = np.flatnonzero((ids < IGNORE) | (ids >= count))
    if wrong.size:
        first = wrong[0]
        raise RowError(
            raw.place,
            f"{kind} id {ids[first]} of region {first} is outside the {kind} vocabulary of {count} labels",
        )
    return ids.astype(np.int16)


def _scores(raw: RawRegions, kind: str, scores: np.ndarray | None) -> np.ndarray:
    """Detector confidences as float32 [N], between 0 and 1."""
    if scores is None:
        return np.zeros(len(raw.boxes), dtype=np.float32)
    scores = scores.astype(np.float32)
    if not ((scores >= 0) & (scores <= 1.001)).all():
        raise RowError(raw.place, f"an {kind} confidence is not between 0 and 1")
    return scores
