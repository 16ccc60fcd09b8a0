"""Non-maximum suppression against a plain loop."""

from __future__ import annotations

import pytest
import torch
from box_loops import crowd, loop_nms

from msp_ds.regions.selection import RISING_THRESHOLDS, max_nms, nms, overlaps


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_is_the_plain_loop(threshold: float) -> None:
    boxes, scores = crowd(80)
    assert nms(boxes, scores, threshold).tolist() == loop_nms(boxes.tolist(), scores.tolist(), threshold)


@pytest.mark.parametrize("count", [3, 20, 80, 200])
def test_max_nms_rises_until_enough_are_left(count: int) -> None:
    boxes, scores = crowd(80)
    kept = [loop_nms(boxes.tolist(), scores.tolist(), threshold) for threshold in RISING_THRESHOLDS]
    expected = next((rows for rows in kept if len(rows) >= count), kept[-1])[:count]
    assert max_nms(boxes, scores, count).tolist() == expected


def test_no_boxes_leave_no_boxes() -> None:
    assert max_nms(torch.zeros(0, 4), torch.zeros(0), 36).tolist() == []


def test_overlaps_of_two_lists_of_boxes() -> None:
    boxes, others = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    assert overlaps(boxes, others).tolist() == [[1.0, pytest.approx(1 / 3), 0.0]]
