"""A process that no longer comes along says where it stands and ends, so that its launcher ends the others."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

LOOKS = 10
"""Times that the watchdog looks within its patience."""
STDERR = 2
"""The file descriptor: sys.stderr may be anything."""
BACKSTOP = 2.0
"""Patience of the watchdog's watchdog: it needs no Python, which a hang in a library may hold."""


class Watchdog:
    """Ends this process with exit code 1, after a dump of all stacks, when it has not been told that it is alive.

    What counts is how often it looked in vain, not the clock: a machine that slept is no hang.
    """

    def __init__(self, patience: float) -> None:
        """patience: seconds without a sign of life; 0: it never ends anything."""
        self._patience = patience
        self._signs = 0
        self._said = "before the first step"
        self._ended = threading.Event()

    def alive(self, where: str = "") -> None:
        """A sign of life; `where` names what has been reached."""
        self._signs += 1
        self._said = where or self._said

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches as long as the block runs."""
        if not self._patience:
            yield
            return
        self._ended.clear()
        self._hold_off_backstop()
        watcher = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()
            watcher.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        seen, in_vain = self._signs, 0
        while not self._ended.wait(self._patience / LOOKS):
            in_vain = in_vain + 1 if seen == self._signs else 0
            seen = self._signs
            if in_vain >= LOOKS:
                self._give_up()
            self._hold_off_backstop()

    def _hold_off_backstop(self) -> None:
        faulthandler.dump_traceback_later(BACKSTOP * self._patience, exit=True, file=STDERR)

    def _give_up(self) -> None:
        log.error(
            "nothing has moved for %.0f s %s: this process ends, where it stands is below; --resume continues from the "
            "last checkpoint, --watchdog MINUTES gives more time",
            *(self._patience, self._said),
        )
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        os._exit(1)
