"""Proposals, and the choice of regions as Caffe's scripts make it, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from box_loops import crowd, loop_nms

from msp_ds.regions.detectors.vg_selection import choose, class_ranks, decode, find_proposals


def test_a_delta_moves_the_centre_by_sides_and_scales_the_sides() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre 20, 40; sides 20, 40
    moved = decode(torch.tensor([[1.0, 5.0, 5 * math.log(2), 99.0]]), box, weights=(10.0, 5.0))
    # centre 22, 60; sides 40 and 40 * 1000 / 16, the most that is allowed
    assert moved.tolist()[0] == pytest.approx([2.0, -1190.0, 42.0, 1310.0], abs=1e-3)


@pytest.mark.parametrize("most", [5, 40])
def test_proposals_are_the_first_that_nms_keeps(float64: None, most: int) -> None:
    anchors, _ = crowd(60)
    logits = torch.randperm(60, generator=torch.Generator().manual_seed(1)).double()
    boxes, is_found = find_proposals(logits, torch.zeros(60, 4), anchors, (90, 80), most=most)
    cut = [[min(x0, 80), min(y0, 90), min(x1, 80), min(y1, 90)] for x0, y0, x1, y1 in anchors.tolist()]
    kept = loop_nms(cut, logits.tolist(), 0.7)[:most]
    assert is_found.tolist() == [True] * len(kept) + [False] * (most - len(kept))
    assert boxes[is_found].flatten().tolist() == pytest.approx([side for row in kept for side in cut[row]])


def test_anchors_outside_the_picture_are_no_proposals() -> None:
    anchors = torch.tensor([[-20.0, 0, -5, 10], [0, 0, 10, 10]])
    boxes, is_found = find_proposals(torch.tensor([2.0, 1.0]), torch.zeros(2, 4), anchors, (50, 50), most=3)
    assert (boxes.tolist()[0], is_found.tolist()) == ([0, 0, 10, 10], [True, False, False])


def test_a_rank_is_the_best_probability_that_survives_its_own_label() -> None:
    boxes, _ = crowd(50)
    probabilities = torch.rand(50, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = [0.0] * 50
    for label in probabilities.T.tolist():
        for row in loop_nms(boxes.tolist(), label, 0.3, extra=1.0):
            expected[row] = max(expected[row], label[row])
    assert class_ranks(boxes, probabilities).tolist() == expected


@pytest.mark.parametrize(
    ("count", "rows"),
    # Three reach 0.2: exactly so many stay in their own order, all others come by rank.
    [(2, [3, 0]), (3, [0, 1, 3]), (4, [3, 0, 1, 2]), (9, [3, 0, 1, 2, 4])],
)
def test_caffe_sorts_unless_exactly_enough_reach_the_threshold(count: int, rows: list[int]) -> None:
    ranks = torch.tensor([0.4, 0.2, 0.19, 0.9, 0.1])
    assert choose("caffe", {"ranks": ranks, "boxes": torch.zeros(5, 4)}, count).tolist() == rows
