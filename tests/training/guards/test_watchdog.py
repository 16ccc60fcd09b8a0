"""A process that hangs ends with its stacks; one that moves, sleeps or has ended is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.training.guards.limits import Limits
from msp_ds.training.guards.watchdog import Watchdog

ROOT = Path(__file__).resolve().parents[3]
START = "import time, ctypes, logging; from msp_ds.training.guards.watchdog import Watchdog\nlogging.basicConfig()\n"


def outcome(program: str) -> tuple[int, str]:
    """Exit code and stderr of a program."""
    done = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    return done.returncode, done.stderr


def test_a_hang_ends_the_process_with_one_line_and_all_stacks() -> None:
    code, message = outcome(
        "dog = Watchdog(0.5)\n"
        "def stuck():\n    time.sleep(50)\n"
        "with dog.watching():\n    dog.alive('after step 7 of stage token')\n    stuck()\n"
    )
    assert code == 1
    assert "nothing has moved for 0 s after step 7 of stage token: this process ends" in message
    assert "--resume continues from the last checkpoint, --stall-timeout MINUTES gives more time" in message
    assert "in stuck" in message


def test_a_hang_that_holds_the_interpreter_ends_too() -> None:
    code, message = outcome(
        "dog = Watchdog(0.5)\n"
        "with dog.watching():\n    time.sleep(0.2)\n    ctypes.PyDLL(None).sleep(50)\n"  # PyDLL keeps the lock
    )
    assert code == 1
    assert "Timeout (0:00:01)!" in message


def test_what_moves_is_left_alone() -> None:
    program = (
        "dog = Watchdog(1.0)\nwith dog.watching():\n    for _ in range(20):\n        time.sleep(0.1); dog.alive()\n"
    )
    assert outcome(program + "time.sleep(1.5)\n") == (0, "")


def test_a_timeout_of_zero_is_no_watchdog() -> None:
    assert outcome("with Watchdog(0).watching():\n    time.sleep(0.5)\n") == (0, "")


def test_a_watchdog_ends_with_its_block() -> None:
    import threading

    with Watchdog(100).watching():
        assert "watchdog" in [thread.name for thread in threading.enumerate()]
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"stop_after_nan": 0}, "--stop-after-nan 0 is not positive"),
        ({"stall_timeout": -1.0}, "--stall-timeout -1.0 is not in 0 to 527040"),
    ],
)
def test_limits_that_cannot_be_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**limits)  # type: ignore[arg-type]
