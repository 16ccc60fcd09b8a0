"""Choose the regions of a picture among many boxes. N boxes, R regions."""

import torch
from torch import Tensor

RISING_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Overlaps that are allowed one after the other until enough boxes are left."""


def overlaps(boxes: Tensor, others: Tensor | None = None, *, extra: float = 0.0) -> Tensor:
    """Return the intersection over union of float32 [N, 4] `boxes` with [M, 4] `others`, or with themselves, as float32
    [N, M].

    extra: pixels that are added to all widths and heights, 1 in Caffe's arithmetic.
    """
    others = boxes if others is None else others
    areas, other_areas = ((b[:, 2] - b[:, 0] + extra) * (b[:, 3] - b[:, 1] + extra) for b in (boxes, others))
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner + extra).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    return shared / (areas[:, None] + other_areas[None] - shared).clamp(min=1e-12)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the rows that non-maximum suppression keeps, int64 [R], the highest score first.

    A box is dropped if its overlap with a kept box of a higher score exceeds `threshold`; of equal scores the first row
    counts as higher. boxes: float32 [N, 4]; scores: float32 [N].
    """
    order = scores.argsort(descending=True, stable=True)
    too_close = overlaps(boxes[order]) > threshold
    return order[kept_in_order(too_close)]


def kept_in_order(too_close: Tensor) -> Tensor:
    """Return bool [..., N]: what is kept when each kept row drops the later ones of bool [..., N, N] `too_close`.

    Further axes are separate selections, made together.
    """
    kept = too_close.new_ones(too_close.shape[:-1])
    for row in range(too_close.shape[-1] - 1):  # no wait for a device: a row that is dropped drops nothing
        kept[..., row + 1 :] &= ~(too_close[..., row, row + 1 :] & kept[..., row, None])
    return kept


def max_nms(boxes: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return at most `count` rows, int64 [R], the highest score first, by the lowest of RISING_THRESHOLDS that leaves
    so many, else by the last.

    This is the selection of py-bottom-up-attention's scripts. boxes: float32 [N, 4]; scores: float32 [N], each box's
    best label.
    """
    for threshold in RISING_THRESHOLDS:
        kept = nms(boxes, scores, threshold)
        if len(kept) >= count:
            break
    return kept[:count]
