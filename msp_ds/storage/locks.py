"""Locks between processes: on open files, and on folders that one process at a time may write, on any machine.

A lock on an open file ends with its process, also after kill -9. Other machines may not see it (NFS), so the owner of a
folder also keeps a file in it, whose time of change it renews as long as it lives.
"""

import errno
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
from typing import IO, Any

from msp_ds.config import write_json
from msp_ds.errors import InputError, writing

try:
    import fcntl
except ImportError:  # a system without these locks, as Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

HAS_FILE_LOCKS = fcntl is not None  # whether this system has locks on open files
OWNER_FILE = ".owner"  # the owner's host and process; its time of change says when the owner was last alive
RENEWAL_SECONDS = 20.0  # between two renewals of the owner's file
STALE_SECONDS = 120.0  # without a renewal, after which a process on another machine may take the folder over
_TRIES, _SECONDS_BETWEEN_TRIES = 20, 0.05
"""is_being_written holds the lock of a folder for a moment, so one failed try does not mean that it is taken."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def lock_file(file: int | IO[Any], *, shared: bool = False, wait: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed.

    Returns False when another process holds the lock, None on systems without such locks.

    Raises: OSError on file systems without such locks.
    """
    if fcntl is None:
        return None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except OSError as error:
        if not wait and error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise  # who waits for a lock must not go on without it
    return True


@contextmanager
def lock_folder(folder: Path, *, flag: str = "--out", owner_file: Path | None = None) -> Iterator[None]:
    """Make `folder` if it is missing, and keep other processes from writing into it as long as the block runs.

    flag: the option that names another folder. owner_file: by default OWNER_FILE in the folder.

    Raises: InputError when another process writes there, or when the folder cannot be written.
    """
    with ExitStack() as held:
        with writing(folder, fix=f"name another {flag}"):
            folder.mkdir(parents=True, exist_ok=True)
            _acquire(folder, owner_file or folder / OWNER_FILE, flag=flag, held=held)
        yield


@contextmanager
def share_folder(folder: Path, *, flag: str = "--out") -> Iterator[None]:
    """Make `folder` if it is missing, and keep `lock_folder` from it as long as the block runs; others may share it.

    Raises: InputError when one process has it for itself, or when the folder cannot be written.
    """
    with ExitStack() as held:
        with writing(folder, fix=f"name another {flag}"):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            locked = _lock(descriptor, shared=True)
        if locked is False or _is_alive(folder / OWNER_FILE, locked, clock=time.time):
            owner = _describe_owner(folder / OWNER_FILE)
            raise InputError(f"{folder} is being written by {owner} alone; wait for it, or name another {flag}")
        yield


def is_being_written(folder: Path) -> bool | None:
    """Return whether a process writes into a folder now; None where there are neither locks nor an owner's file."""
    owner_file = folder / OWNER_FILE
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = _lock(descriptor, shared=True)
    finally:
        os.close(descriptor)
    if locked is None and not owner_file.exists():
        return None
    return locked is False or _is_alive(owner_file, locked, clock=time.time)


def _acquire(folder: Path, owner_file: Path, *, flag: str, held: ExitStack) -> None:
    """Lock a folder and write its owner's file, until `held` is closed."""
    descriptor = os.open(folder, os.O_RDONLY)
    held.callback(os.close, descriptor)
    for _ in range(_TRIES):
        if (locked := _lock(descriptor)) is not False:
            break
        time.sleep(_SECONDS_BETWEEN_TRIES)
    if locked is False or _is_alive(owner_file, locked, clock=lambda: _file_system_time(owner_file.parent)):
        raise InputError(
            f"{folder} is being written by {_describe_owner(owner_file)}; wait for it, or name another {flag}"
        )
    held.enter_context(_kept_owner_file(owner_file))


def _lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """As lock_file, and None on file systems without locks: the owner's file decides there."""
    try:
        return lock_file(descriptor, shared=shared)
    except OSError:
        return None


def _is_alive(owner_file: Path, locked: bool | None, *, clock: Callable[[], float]) -> bool:
    """Whether the owner that a file names still writes. locked: the result of locking the folder on this machine."""
    owner = _read(owner_file)
    if owner is None:
        return False
    if owner.get("machine") == _machine():
        return not locked and process_exists(owner.get("pid"))
    try:
        return clock() - owner_file.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:  # it has just ended
        return False


def process_exists(pid: Any) -> bool:
    """Return whether this machine has the process `pid`; False for a value that is no number."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, OverflowError, TypeError, ValueError):
        return False
    return True


def _machine() -> str:
    """An id that differs between machines even where two have one name."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _file_system_time(folder: Path) -> float:
    """The time by the clock of the file system, which also dates the renewals of other machines."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.fstat(file.fileno()).st_mtime


def _read(owner_file: Path) -> dict[str, Any] | None:
    """The owner in a file; empty where it cannot be read, None where there is none."""
    try:
        owner = json.loads(owner_file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe_owner(owner_file: Path) -> str:
    owner = _read(owner_file) or {}
    words = f"process {owner['pid']} on {owner['host']}" if {"pid", "host"} <= owner.keys() else "another process"
    is_here = owner.get("machine") in (None, _machine())
    return words if is_here else f"{words} (if that was killed, the folder is free after {STALE_SECONDS:.0f} s)"


@contextmanager
def _kept_owner_file(owner_file: Path) -> Iterator[None]:
    me = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "token": uuid.uuid4().hex}
    write_json(owner_file, me)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(owner_file, me, ended), name="owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            if _read(owner_file) == me:
                owner_file.unlink()


def _renew(owner_file: Path, me: dict[str, Any], ended: threading.Event) -> None:
    """Renew the owner's file until `ended` is set. End the process when another one has taken the folder over."""
    while not ended.wait(RENEWAL_SECONDS):
        with suppress(OSError):  # the disk may be away for a moment
            owner = _read(owner_file)
            if owner is None:
                write_json(owner_file, me)
            elif owner.get("token", me["token"]) != me["token"]:
                log.error(
                    "%s was taken over by %s because this process did not run for %.0f s; this process ends now, so "
                    "that only one writes into the folder",
                    *(owner_file.parent, _describe_owner(owner_file), STALE_SECONDS),
                )
                os._exit(1)
            os.utime(owner_file)
