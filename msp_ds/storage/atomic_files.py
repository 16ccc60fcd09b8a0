"""Files and folders that are on disk whole or not at all, and that only replace what this program wrote."""

import ctypes
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msp_ds.errors import InputError
from msp_ds.storage.checksums import FileEntry

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def require_plain_file(path: Path | None) -> None:
    """Require that a file can be written at `path`: a plain file is there, or nothing. None is accepted too.

    Raises: InputError for a folder, and for a pipe, socket or device, which a new file would replace.
    """
    # os.path: a path that cannot be looked at is left to the code that writes.
    if path is not None and os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe, socket or device"
        raise InputError(f"{path} is {kind}; name a plain file")


def write_atomically(path: Path, data: bytes | memoryview, *, temporary: Path | None = None) -> None:
    """Write a file so that either the old content or the whole new content is there, also after a crash.

    Where `path` is a link, its target is written. temporary: the file that is renamed, in the same folder; by default
    its name is hidden and unique to the process.

    Raises: InputError as require_plain_file.
    """
    require_plain_file(path)
    path = Path(os.path.realpath(path))
    temporary = temporary or path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write_durably(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes | memoryview) -> FileEntry:
    """Write a file and flush it to the disk; return its size and sha256."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def followed(target: Path) -> Path:
    """Return the folder that `target` stands for: itself, or the folder that a link leads to.

    Raises: InputError for a link that leads to no folder.
    """
    if not target.is_symlink():
        return target
    real = Path(os.path.realpath(target))
    if not real.is_dir():
        raise InputError(f"{target} is a link to {real}, which is not a folder; make that folder or remove the link")
    return real


def require_own_files(folder: Path, *, is_own: Callable[[str], bool], what: str, fix: str) -> None:
    """Require that `folder`, which may be missing, holds only files of names that this program uses.

    Callers that delete or replace a folder call this first, since only files of this program may be deleted.

    Raises: InputError that names the first other entry, which does not belong to `what`, and ends with `fix`.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() else [folder] if os.path.lexists(folder) else []
    for entry in entries:
        is_file = entry.is_symlink() or entry.is_file()
        if entry == folder or not (is_file and is_own(entry.name)):
            raise InputError(f"{entry} does not belong to {what} and would be deleted; {fix}")


@contextmanager
def replacing_folder(target: Path, prepared: Path) -> Iterator[Path]:
    """Put the folder `prepared`, filled in the block, in the place of `target`; delete it when the block fails."""
    try:
        yield prepared
        sync_folder(prepared)
        replace_folder(prepared, target)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)


def replace_folder(prepared: Path, target: Path) -> None:
    """Put a prepared folder in the place of `target`, which is not a link, in one step, and delete the old folder."""
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
    """Swap two names atomically where kernel and file system can (Linux); return whether it was done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and not rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
