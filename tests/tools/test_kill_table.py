"""What the notes of a killed run tell: where it was, and which pairs it has learnt from."""

from __future__ import annotations

from typing import Any

import pytest

from tools.check.noted_training import pairs_trained_on, place_of

STEP = {"what": "step", "stage": "token", "step": 0, "keys": [1]}


def words(*whats: str) -> list[dict[str, Any]]:
    return [{"what": what} for what in whats]


@pytest.mark.parametrize(
    ("notes", "place"),
    [
        ([], "start-up"),
        (("start", "stage begins"), "start-up"),
        (("start", "stage begins", "step"), "step"),
        (("start", "stage begins", "step", "save begins", "step"), "save"),
        (("start", "stage begins", "step", "save begins", "save ends", "step"), "step"),
        (("start", "stage begins", "step", "validation begins"), "validation"),
        (("start", "stage begins", "step", "stage ends"), "stage change"),
        (("start", "stage begins", "step", "stage ends", "stage begins"), "stage change"),
        (("start", "stage begins", "step", "stage ends", "stage begins", "step"), "step"),
    ],
)
def test_a_kill_falls_where_the_notes_break_off(notes: tuple[str, ...], place: str) -> None:
    assert place_of(words(*notes)) == place


def test_what_a_resumed_run_does_again_counts_once() -> None:
    notes = [{**STEP, "step": step, "keys": [key]} for step, key in ((0, 10), (1, 11), (2, 12), (1, 11), (2, 13))]
    assert pairs_trained_on(notes) == {"token": [[10], [11], [13]]}


def test_a_step_that_no_start_has_done_is_refused() -> None:
    with pytest.raises(ValueError, match="token: step 2 follows on 1 steps"):
        pairs_trained_on([STEP, {**STEP, "step": 2}])
