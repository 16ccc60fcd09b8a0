"""Stopping on request: the training loop saves and ends at the next report after a signal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Raised when a run stops on request, after its checkpoint is saved."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        """130 for Ctrl-C, 143 for SIGTERM, as in shells."""


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        """Number of the received signal; 0 before."""

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside the block; only in the main thread."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                # None stands for a handler that was not set from Python, which cannot be restored.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
