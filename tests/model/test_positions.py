"""A list of places names each that is asked about once, in order, and is filled up with others to its room."""

from __future__ import annotations

import pytest
import torch

from msp_ds.model.positions import TargetPositions, gather, scatter

WHERE = torch.tensor([[0, 1, 0], [1, 0, 1]]).bool()


def test_without_a_room_the_list_is_as_long_as_needed() -> None:
    rows = TargetPositions(where=WHERE).flat()
    assert rows.index.tolist() == [1, 3, 5]
    assert rows.is_target.tolist() == [True] * 3


@pytest.mark.parametrize(("room", "expected"), [(3, [1, 3, 5]), (5, [1, 3, 5, 0, 2]), (64, [1, 3, 5, 0, 2, 4])])
def test_a_room_is_filled_up_with_places_that_are_not_asked_about(room: int, expected: list[int]) -> None:
    rows = TargetPositions(where=WHERE, padded_count=room).flat()
    assert rows.index.tolist() == expected
    assert rows.is_target.tolist() == [place < 3 for place in range(len(expected))]


def test_nothing_asked_is_an_empty_list() -> None:
    rows = TargetPositions(where=torch.zeros(2, 3).bool()).flat()
    assert rows.index.shape == rows.is_target.shape == (0,)


def test_the_first_of_every_sequence_joins() -> None:
    places = TargetPositions(where=WHERE, padded_count=4)
    assert places.with_first().where.tolist() == [[True, True, False], [True, False, True]]
    assert places.after_one_more().where.tolist() == [[True, False, True, False], [True, True, False, True]]
    assert places.with_first().room == places.after_one_more().room == 6


def test_two_grids_stand_side_by_side() -> None:
    both = TargetPositions(where=WHERE, padded_count=4).beside(TargetPositions(where=~WHERE, padded_count=3))
    assert both.where.int().tolist() == [[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]]
    assert both.room == 7
    assert TargetPositions(where=WHERE).beside(TargetPositions(where=WHERE, padded_count=1)).room is None


def test_what_was_taken_is_put_back_where_it_was() -> None:
    states, rows = torch.arange(12.0).view(2, 3, 2), TargetPositions(where=WHERE).flat()
    taken = gather(states, rows)
    assert taken.tolist() == [[2, 3], [6, 7], [10, 11]]
    assert scatter(-taken, rows, like=WHERE).tolist() == [
        [[0, 0], [-2, -3], [0, 0]],
        [[-6, -7], [0, 0], [-10, -11]],
    ]
