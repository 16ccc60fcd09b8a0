"""The boxes of bottom-up attention: proposals of the network, and three ways to choose the regions among them.

A: anchors; N: proposals; L: labels. What is computed on a device needs no wait for it: no size depends on values.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from msp_ds.regions.detector import Selection
from msp_ds.regions.selection import kept_in_order, max_nms, overlaps

_ANCHORS = 6000
_PROPOSAL_OVERLAP, _CLASS_OVERLAP = 0.7, 0.3
_LEAST_RANK = 0.2
_OBJECT_WEIGHTS = (10.0, 5.0)
"""By which the deltas of boxes' centres and of their sides are divided; those of anchors are as they are."""
_LARGEST_GROWTH = math.log(1000 / 16)


def decode(deltas: Tensor, boxes: Tensor, *, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Return boxes that are moved and scaled by deltas, all float32 [N, 4].

    weights: by which the deltas of the centre and of the sides are divided.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + sides / 2 + deltas[:, :2] / weights[0] * sides
    sides = sides * (deltas[:, 2:] / weights[1]).clamp(max=_LARGEST_GROWTH).exp()
    return torch.cat((centre - sides / 2, centre + sides / 2), dim=1)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return float32 [N, 4] boxes cut to a picture."""
    return torch.stack((boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)), dim=2).flatten(1)


def find_proposals(
    logits: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int], *, most: int
) -> tuple[Tensor, Tensor]:
    """Return the proposals, float32 [N, 4] in pixels, the highest logit first, and bool [N]: which of them there are.

    Args:
        logits, deltas, anchors: float32 [A], [A, 4] and [A, 4] of the network.
        size: height and width of the resized picture.
        most: N.
    """
    best = logits.argsort(descending=True, stable=True)[:_ANCHORS]
    boxes = inside(decode(deltas[best], anchors[best]), *size)
    rows, is_found = _first_kept(boxes, (boxes[:, 2:] > boxes[:, :2]).all(1), most)
    return boxes[rows] * is_found[:, None], is_found


def _first_kept(boxes: Tensor, is_left: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the first rows, int64 [most], that non-maximum suppression keeps of boxes in order, and bool [most]: which
    of them there are.

    It is selection.nms one kept row at a time, which needs no table of the overlaps of 6,000 x 6,000 boxes.
    """
    rows, is_found = boxes.new_zeros(most, dtype=torch.long), boxes.new_zeros(most, dtype=torch.bool)
    for place in range(most):
        row = is_left.byte().argmax(0, keepdim=True)  # the first
        rows[place : place + 1], is_found[place : place + 1] = row, is_left.index_select(0, row)
        is_left = is_left & (overlaps(boxes.index_select(0, row), boxes)[0] <= _PROPOSAL_OVERLAP)
        is_left.index_fill_(0, row, False)
    return rows, is_found


def describe(
    selection: Selection, boxes: Tensor, is_found: Tensor, logits: Sequence[Tensor], size: tuple[int, int]
) -> dict[str, Tensor]:
    """Return what the regions of a picture are chosen from, and what is stored of them, on the device.

    `boxes` float32 [N, 4] as they are stored, `ranks` [N], `object_scores`, `object_ids`, `attribute_scores` and
    `attribute_ids` [N] without the background.

    Args:
        boxes, is_found: as find_proposals gives them, or the user's.
        logits: as VgNetwork.roi_heads.box_predictor gives them.
        size: height and width of the resized picture.
    """
    objects, deltas, attributes = logits
    probabilities = objects.softmax(1)[:, :-1]
    object_scores, object_ids = probabilities.max(1)
    ranks = object_scores
    if selection == "caffe":
        ranks = class_ranks(boxes, probabilities * is_found[:, None])
        attributes = attributes.softmax(1)[:, :-1]
    else:  # py-bottom-up-attention leaves the background out before
        attributes = attributes[:, :-1].softmax(1)
    if selection == "max-nms":
        own = deltas.gather(1, object_ids[:, None, None].expand(-1, 1, 4))[:, 0]
        boxes = inside(decode(own, boxes, weights=_OBJECT_WEIGHTS), *size)
    found = {"boxes": boxes, "ranks": ranks, "object_scores": object_scores, "object_ids": object_ids}
    return found | dict(zip(("attribute_scores", "attribute_ids"), attributes.max(1), strict=True))


def class_ranks(boxes: Tensor, probabilities: Tensor) -> Tensor:
    """Return the rank of each box, float32 [N]: its highest probability among the labels whose own non-maximum
    suppression keeps it, 0 where there is none. boxes: float32 [N, 4]; probabilities: float32 [N, L].
    """
    too_close = overlaps(boxes, extra=1.0) > _CLASS_OVERLAP
    ordered, order = probabilities.T.sort(dim=1, descending=True, stable=True)
    kept = kept_in_order(too_close[order[:, :, None], order[:, None]])
    return torch.zeros_like(ordered).scatter_(1, order, ordered * kept).amax(0)


def choose(selection: Selection, found: Mapping[str, Tensor], count: int) -> Tensor:
    """Return the rows of the regions in their order: at most `count`, or all boxes of the user. found: of describe."""
    ranks = found["ranks"]
    if selection == "given":
        return torch.arange(len(ranks))
    if selection == "max-nms":
        return max_nms(found["boxes"], ranks, count)
    reach = (ranks >= _LEAST_RANK).nonzero()[:, 0]
    # Caffe's script sorts only where more or fewer reach it.
    return reach if len(reach) == count else ranks.argsort(descending=True, stable=True)[:count]
