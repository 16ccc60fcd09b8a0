"""Files and folders that are on disk whole or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from msp_ds.errors import InputError
from msp_ds.storage.checksums import FileEntry

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


def followed(target: Path) -> Path:
    """The folder that `target` stands for: itself, or, where it is a link, the folder that the link leads to.

    Raises: InputError for a link that leads to no folder.
    """
    if not target.is_symlink():
        return target
    real = Path(os.path.realpath(target))
    if not real.is_dir():
        raise InputError(f"{target} is a link to {real}, which is not a folder; make that folder or remove the link")
    return real


def require_own_files(folder: Path, *, is_own: Callable[[str], bool], what: str, fix: str) -> None:
    """Demand that `folder`, which may be missing, holds only files of names that this program gives.

    Whoever deletes or replaces a folder calls this first: what this program did not write, it does not delete.

    Raises: InputError naming the first other entry, which does not belong to `what`, and ending with `fix`.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() else [folder] if os.path.lexists(folder) else []
    for entry in entries:
        is_file = entry.is_symlink() or entry.is_file()
        if entry == folder or not (is_file and is_own(entry.name)):
            raise InputError(f"{entry} does not belong to {what} and would be deleted; {fix}")


def replace_folder(prepared: Path, target: Path) -> None:
    """Put a prepared folder in the place of `target`, which is no link, in one step, and delete what was there."""
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
