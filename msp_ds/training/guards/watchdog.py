"""Ends a process that hangs, after a dump of its stacks, so that its launcher ends the other ranks."""

import faulthandler
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

NUM_CHECKS = 10  # number of checks within the timeout
STDERR = 2  # file descriptor; sys.stderr may have been replaced
BACKSTOP = 2.0
"""Timeout of faulthandler's timer as a multiple of the watchdog's. It works where a hanging library holds the GIL."""


class Watchdog:
    """Ends this process with exit code 1, after a dump of all stacks, when `alive` was not called for a time.

    It counts its checks without a call and not the time, so that a machine that slept is not taken for a hang.
    """

    def __init__(self, timeout: float) -> None:
        """timeout: seconds; 0 for no watchdog."""
        self._timeout = timeout
        self._num_calls = 0
        self._position = "before the first step"
        self._ended = threading.Event()

    def alive(self, where: str = "") -> None:
        """Report progress; `where` names what has been reached."""
        self._num_calls += 1
        self._position = where or self._position

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the watchdog inside the block."""
        if not self._timeout:
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
        seen, checks_without_progress = self._num_calls, 0
        while not self._ended.wait(self._timeout / NUM_CHECKS):
            checks_without_progress = checks_without_progress + 1 if seen == self._num_calls else 0
            seen = self._num_calls
            if checks_without_progress >= NUM_CHECKS:
                self._give_up()
            self._hold_off_backstop()

    def _hold_off_backstop(self) -> None:
        faulthandler.dump_traceback_later(BACKSTOP * self._timeout, exit=True, file=STDERR)

    def _give_up(self) -> None:
        log.error(
            "nothing has moved for %.0f s %s: this process ends, its stacks follow; --resume continues from the "
            "last checkpoint, --stall-timeout MINUTES gives more time",
            *(self._timeout, self._position),
        )
        faulthandler.dump_traceback(file=STDERR, all_threads=True)
        os._exit(1)
