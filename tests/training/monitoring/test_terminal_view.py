"""The live view of a stage."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from msp_ds.terminal import speak
from msp_ds.training.monitoring.terminal_view import TerminalView

TRAINED = {
    "loss/total": 3.2141,
    "loss/mlm": 2.1,
    "accuracy/mlm": 0.5,
    "accuracy/ifrs": float("nan"),
    "speed/pairs_per_s": 412.4,
    "speed/wait_ratio": 0.02,
    "rate/lr": 1e-4,
    "norm/grad": 3.0,
}


def a_terminal() -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, force_terminal=True, width=140, color_system=None), shown


def test_the_view_shows_stage_step_losses_speed_and_time_left() -> None:
    terminal, _ = a_terminal()
    view = TerminalView(terminal, name="token", num_steps=600, start=0)
    view.advance(270, TRAINED, left="1:20")
    view.validated(200, {"loss/total": 4.5, "accuracy/mlm": 0.25})
    shown = io.StringIO()
    Console(file=shown, width=140).print(view.drawn())
    view.close()
    lines = [" ".join(line.split()) for line in shown.getvalue().splitlines()]
    assert lines[0].startswith("token ")
    assert lines[0].endswith("45% step 270 of 600 1:20 left")
    assert lines[1:] == [
        "loss total 3.214 mlm 2.100",
        "accuracy mlm 0.500",
        "speed 412 pairs/s waits for data 2% rate 0.0001",
        "held out, step 200 total 4.500 mlm accuracy 0.250",
    ]


def test_closing_restores_the_cursor_and_leaves_the_last_view() -> None:
    terminal, shown = a_terminal()
    view = TerminalView(terminal, name="token", num_steps=10, start=0)
    view.advance(10, TRAINED, left="0:00")
    view.close()
    assert shown.getvalue().rstrip().endswith("\x1b[?25h")
    assert "step 10 of 10" in shown.getvalue()


def test_a_log_line_above_the_view_is_the_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, shown = a_terminal()
    handlers = logging.getLogger().handlers[:]
    monkeypatch.setattr("msp_ds.terminal.console", lambda: terminal)
    speak()
    logging.getLogger("msp_ds.training.stage").info("token: fresh heads")
    logging.basicConfig(handlers=handlers or [logging.NullHandler()], force=True)
    logging.getLogger("msp_ds").setLevel(logging.NOTSET)
    assert shown.getvalue().split(maxsplit=1)[1].strip() == "token: fresh heads"
