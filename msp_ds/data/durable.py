"""Files and folders that are on disk whole or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from pathlib import Path

from msp_ds.data.set_layout import FileEntry

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_durably(path: Path, data: bytes | memoryview) -> FileEntry:
    """Write a file down to the disk; its size and sha256."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def sync_folder(path: Path) -> None:
    """Force the names in a folder down to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(prepared: Path, target: Path) -> None:
    """Put a prepared folder in the place of `target` in one step, and delete what was there."""
    if not target.exists():
        prepared.rename(target)
    elif _exchange(prepared, target):
        shutil.rmtree(prepared)
    else:
        # Without an exchange in one system call there is a moment with neither; readers then call the set missing.
        old = prepared.with_name(f"{prepared.name}-old")
        target.rename(old)
        prepared.rename(target)
        shutil.rmtree(old)
    sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically where kernel and file system can (Linux); whether it was done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and not rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
