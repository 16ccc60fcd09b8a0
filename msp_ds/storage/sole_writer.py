"""A folder that only one process writes at a time, whichever machine it runs on.

On one machine a lock on the folder tells, which dies with its process, also by kill -9. Other machines may not see the
lock (NFS), so the owner keeps a file in the folder too and touches it for as long as it lives.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from msp_ds.config import write_json
from msp_ds.errors import InputError

log = logging.getLogger(__name__)

OWNER_FILE = ".owner"
"""The owner's host and process; its time of change says when the owner was last alive."""
BEAT = 20.0
"""Seconds between two signs of life of an owner."""
STALE = 120.0
"""Seconds without a sign of life after which another machine takes a folder over."""
_TRIES, _PAUSE = 20, 0.05
"""Seconds between two tries: who only looks holds the lock for a moment."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def sole_writer(folder: Path, *, flag: str = "--out", owner_file: Path | None = None) -> Iterator[None]:
    """Keep other processes from writing into `folder`, which exists, as long as the block runs.

    flag: what names another folder. owner_file: where the owner's file lies, if not in the folder.

    Raises: InputError when another process writes there, or when the folder cannot be written.
    """
    with ExitStack() as held:
        try:
            _take(folder, owner_file or folder / OWNER_FILE, flag=flag, held=held)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); name another {flag}") from None
        yield


def _take(folder: Path, mark: Path, *, flag: str, held: ExitStack) -> None:
    """Lock a folder and sign it, until `held` is closed."""
    descriptor = os.open(folder, os.O_RDONLY)
    held.callback(os.close, descriptor)
    for _ in range(_TRIES):
        if (locked := _lock(descriptor, "LOCK_EX")) is not False:
            break
        time.sleep(_PAUSE)
    if locked is False or _is_alive(mark, locked, clock=lambda: _time_of(mark.parent)):
        raise InputError(f"{folder} is being written by {_owner_words(mark)}; wait for it, or name another {flag}")
    held.enter_context(_signs_of_life(mark))


def is_being_written(folder: Path) -> bool | None:
    """Whether a process writes into a folder now; None where that cannot be told."""
    mark = folder / OWNER_FILE
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = _lock(descriptor, "LOCK_SH")
    finally:
        os.close(descriptor)
    if locked is None and not mark.exists():
        return None
    return locked is False or _is_alive(mark, locked, clock=time.time)


def _lock(descriptor: int, kind: str) -> bool | None:
    """Lock an open folder; False when another process has, None where there are no such locks."""
    try:
        locks: Any = importlib.import_module("fcntl")  # only on Unix
        locks.flock(descriptor, getattr(locks, kind) | locks.LOCK_NB)
    except ImportError:
        return None
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_alive(mark: Path, locked: bool | None, *, clock: Callable[[], float]) -> bool:
    """Whether the owner that a file names still writes. locked: what the lock of this machine says."""
    owner = _read(mark)
    if owner is None:
        return False
    if owner.get("machine") == _machine():
        return not locked and _process_exists(owner.get("pid"))
    try:
        return clock() - mark.stat().st_mtime < STALE
    except FileNotFoundError:  # it has just ended
        return False


def _process_exists(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, TypeError, ValueError):
        return False
    return True


def _machine() -> str:
    """What tells machines apart even where two have one name."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _time_of(folder: Path) -> float:
    """The time by the clock of the file system, which other machines' signs of life have too."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.fstat(file.fileno()).st_mtime


def _read(mark: Path) -> dict[str, Any] | None:
    """The owner in a file; empty where it cannot be read, None where there is none."""
    try:
        owner = json.loads(mark.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner_words(mark: Path) -> str:
    owner = _read(mark) or {}
    words = f"process {owner['pid']} on {owner['host']}" if {"pid", "host"} <= owner.keys() else "another process"
    here = owner.get("machine") in (None, _machine())
    return words if here else f"{words} (if that was killed, the folder is free after {STALE:.0f} s)"


@contextmanager
def _signs_of_life(mark: Path) -> Iterator[None]:
    me = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "token": uuid.uuid4().hex}
    write_json(mark, me)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(mark, me, ended), name="owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            if _read(mark) == me:
                mark.unlink()


def _beat(mark: Path, me: dict[str, Any], ended: threading.Event) -> None:
    """Gives signs of life until `ended`. Ends the process when another one has taken the folder over."""
    while not ended.wait(BEAT):
        with suppress(OSError):  # the disk may be away for a moment
            owner = _read(mark)
            if owner is None:
                write_json(mark, me)
            elif owner.get("token", me["token"]) != me["token"]:
                log.error(
                    "%s was taken over by %s, since this process did not run for %.0f s; it ends, so that the two do "
                    "not write into one folder",
                    *(mark.parent, _owner_words(mark), STALE),
                )
                os._exit(1)
            os.utime(mark)
