"""Stopping on request: a signal is noted, and the loop saves and leaves at its next report."""

from __future__ import annotations

import signal
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

    def listen(self) -> None:
        """Takes over SIGINT and SIGTERM; only in a main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
