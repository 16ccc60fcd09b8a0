"""Reads from a place in an open file, which several threads may share."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

_POSITION = threading.Lock()
"""Held from a seek to the read behind it where the system has no read that takes a position."""


def open_to_read(path: str | os.PathLike[str]) -> int:
    """The descriptor of a file of bytes."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # the flag is Windows'


def read_at(file: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset`, fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(file, length, offset)
    with _POSITION:
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, length)


def read_into(file: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Fill buffers one after the other with what is at `offset`; the number of bytes, fewer at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(file, buffers, offset)
    data = read_at(file, sum(len(buffer) for buffer in buffers), offset)
    rest = data
    for buffer in buffers:
        buffer[: len(rest)], rest = rest[: len(buffer)], rest[len(buffer) :]
    return len(data)
