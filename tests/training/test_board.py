"""TensorBoard's file shows every step once, also after an interruption."""

from __future__ import annotations

import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msp_ds.training.board import Board


def shown(folder: Path, name: str) -> dict[int, float]:
    """Step -> value of a scalar, as TensorBoard shows it."""
    board = EventAccumulator(str(folder))
    board.Reload()
    points = board.Scalars(name)
    assert len(points) == len({point.step for point in points})
    return {point.step: point.value for point in points}


def a_board(folder: Path, *, start: int, speaks: bool = True) -> Board:
    return Board(folder, name="token", num_steps=6, start=start, speaks=speaks)


def test_steps_after_the_checkpoint_are_replaced_and_those_before_stay(tmp_path: Path) -> None:
    before = a_board(tmp_path, start=0)
    for step in (1, 2, 3, 4):
        before.scalars(step, {"loss/mlm": 10.0 + step})
    before.close()
    time.sleep(1.1)  # files are ordered by the second in their names
    after = a_board(tmp_path, start=2)
    for step in (3, 4, 5):
        after.scalars(step, {"loss/mlm": 20.0 + step})
    after.close()
    assert shown(tmp_path, "loss/mlm") == {1: 11.0, 2: 12.0, 3: 23.0, 4: 24.0, 5: 25.0}


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    board = a_board(tmp_path, start=0)
    board.scalars(1, {"loss/mlm": 1.5})
    board.flush()
    assert shown(tmp_path, "loss/mlm") == {1: 1.5}  # never closed
    board.close()


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    board = a_board(tmp_path / "none", start=0, speaks=False)
    board.scalars(1, {"loss/mlm": 1.0})
    board.advance(1, {})
    board.flush()
    board.close()
    assert not (tmp_path / "none").exists()
