"""Stopping on request: a signal is noted, and the loop saves and leaves at its next report."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A run that stopped because it was asked to; its checkpoint is saved."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        """130 for Ctrl-C, 143 for SIGTERM, as shells count."""


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        """Number of the signal that came, 0 before."""

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Takes over SIGINT and SIGTERM as long as the block runs; only in a main thread."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                # None stands for a handler that was not set from Python, which cannot be put back.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
