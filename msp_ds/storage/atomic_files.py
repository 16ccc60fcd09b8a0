"""Files that are written whole or not at all, and never over anything but a plain file."""

from __future__ import annotations

import os
from pathlib import Path

from msp_ds.errors import InputError


def require_plain_file(path: Path | None) -> None:
    """Demand that a file can be written at `path`: a plain one lies there, or nothing. None is taken too.

    Raises: InputError for a folder, and for a pipe, socket or device, which a new file would replace.
    """
    # os.path: what cannot even be looked at is left to whoever writes.
    if path is not None and os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe, socket or device"
        raise InputError(f"{path} is {kind}; name a plain file")


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that, whatever happens, either the old content or the whole new content is there.

    Where `path` is a link, the file that it leads to is written. Raises: InputError as require_plain_file.
    """
    require_plain_file(path)
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
