"""The choice of boxes and the result without attributes."""

from __future__ import annotations

import pytest
import torch

from msp_ds.errors import InputError
from msp_ds.regions.detectors.shared_steps import choose_rows, inference


def test_empty_boxes_and_those_without_a_score_are_never_chosen() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 20, 30], [40, 40, 50, 50], [60, 60, 70, 70]])
    assert choose_rows(boxes, torch.tensor([0.2, 0.9, 0.5, 0.0]), 36).tolist() == [2, 0]
    assert choose_rows(boxes, torch.zeros(4), 36).tolist() == []


def test_as_many_distant_boxes_as_wanted_are_chosen_by_falling_score() -> None:
    left = torch.arange(500.0) * 10
    boxes = torch.stack((left, left * 0, left + 5, left * 0 + 5), dim=1)
    scores = torch.arange(1, 501) / 500
    assert choose_rows(boxes, scores, 300).tolist() == list(range(499, 199, -1))


def test_fp32_is_true_fp32_while_regions_are_computed_and_the_callers_choice_comes_back() -> None:
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    assert any(before)  # torch's own default for convolutions
    with inference():
        assert not any(kind.allow_tf32 for kind in kinds)
        assert torch.is_inference_mode_enabled()
    assert [kind.allow_tf32 for kind in kinds] == before


def test_a_full_memory_is_one_line() -> None:
    with pytest.raises(InputError, match=r"memory is full; .* --device cpu"), inference():
        raise torch.OutOfMemoryError


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="scores that are NaN"):
        choose_rows(torch.ones(1, 4), torch.tensor([float("nan")]), 36)
