"""Reads at an offset of an open file, which several threads may share."""

import os
import threading
from collections.abc import Sequence

_POSITION = threading.Lock()  # held from a seek to the read after it, on systems that cannot read at an offset


def open_to_read(path: str | os.PathLike[str]) -> int:
    """Open a file of bytes and return its descriptor."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # O_BINARY: on Windows


def read_at(file: int, length: int, offset: int) -> bytes:
    """Return `length` bytes from `offset`, fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(file, length, offset)
    with _POSITION:
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, length)


def read_into(file: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Fill buffers one after the other from `offset`; return the number of bytes, fewer at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(file, buffers, offset)
    rest = data = read_at(file, sum(len(buffer) for buffer in buffers), offset)
    for buffer in buffers:
        buffer[: len(rest)], rest = rest[: len(buffer)], rest[len(buffer) :]
    return len(data)
