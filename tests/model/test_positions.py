"""A list of positions names each target once, in order; other positions pad it."""

from __future__ import annotations

import pytest
import torch

from msp_ds.model.positions import TargetPositions, gather, scatter

MASK = torch.tensor([[0, 1, 0], [1, 0, 1]]).bool()


def test_without_a_padded_count_the_list_is_as_long_as_needed() -> None:
    positions = TargetPositions(mask=MASK).flat()
    assert positions.index.tolist() == [1, 3, 5]
    assert positions.is_target.tolist() == [True] * 3


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 3, 5]), (5, [1, 3, 5, 0, 2]), (64, [1, 3, 5, 0, 2, 4])])
def test_positions_that_are_no_targets_pad_the_list(count: int, expected: list[int]) -> None:
    positions = TargetPositions(mask=MASK, padded_count=count).flat()
    assert positions.index.tolist() == expected
    assert positions.is_target.tolist() == [place < 3 for place in range(len(expected))]


def test_without_targets_the_list_is_empty() -> None:
    positions = TargetPositions(mask=torch.zeros(2, 3).bool()).flat()
    assert positions.index.shape == positions.is_target.shape == (0,)


def test_the_first_position_of_every_sequence_is_added() -> None:
    targets = TargetPositions(mask=MASK, padded_count=4)
    assert targets.with_first().mask.tolist() == [[True, True, False], [True, False, True]]
    assert targets.after_prepended().mask.tolist() == [[True, False, True, False], [True, True, False, True]]
    assert targets.with_first().padded_count == targets.after_prepended().padded_count == 6


def test_two_grids_are_concatenated() -> None:
    both = TargetPositions(mask=MASK, padded_count=4).concatenated(TargetPositions(mask=~MASK, padded_count=3))
    assert both.mask.int().tolist() == [[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]]
    assert both.padded_count == 7
    assert TargetPositions(mask=MASK).concatenated(TargetPositions(mask=MASK, padded_count=1)).padded_count is None


def test_scatter_puts_gathered_states_where_they_were() -> None:
    states, positions = torch.arange(12.0).view(2, 3, 2), TargetPositions(mask=MASK).flat()
    gathered = gather(states, positions)
    assert gathered.tolist() == [[2, 3], [6, 7], [10, 11]]
    assert scatter(-gathered, positions, like=MASK).tolist() == [
        [[0, 0], [-2, -3], [0, 0]],
        [[-6, -7], [0, 0], [-10, -11]],
    ]
