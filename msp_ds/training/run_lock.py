"""Whether somebody trains in a run's folder right now: a lock on the folder that dies with its process."""

from __future__ import annotations

import errno
import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TRIES, _PAUSE = 20, 0.05
"""Seconds between two tries: somebody who only looks holds the lock for a moment."""


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Marks a run's folder, which exists, as in use while the block runs, also should it end by kill -9.

    Where the system or the file system knows no such locks, or another process has it, nothing is marked.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(_TRIES):
            if _lock(descriptor, "LOCK_EX") is not False:
                break
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def is_in_use(folder: Path) -> bool | None:
    """Whether a process on this machine trains in a run's folder; None where that cannot be told."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        free = _lock(descriptor, "LOCK_SH")
        return None if free is None else not free
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: str) -> bool | None:
    """Locks an open folder; False when another process has, None where there are no such locks."""
    try:
        locks: Any = importlib.import_module("fcntl")  # only on Unix
        locks.flock(descriptor, getattr(locks, kind) | locks.LOCK_NB)
    except ImportError:
        return None
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True
