"""Files of bytes, plain or compressed (.gz, .zst), as one stream that is read forwards."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard

from msp_ds.errors import InputError
from msp_ds.file_kinds import Archive, refuse_other_kind

_BUFFER = 1 << 20
_CHUNK = 1 << 17

DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading a damaged stream raises."""


def is_compressed(path: Path) -> bool:
    """Whether the name says so."""
    return path.suffix in _NEW_FRAME


def open_stream(path: Path, *, what: str) -> BinaryIO:
    """The bytes of a file, decompressed by the ending of its name. Raises: InputError when it cannot be opened."""
    refuse_other_kind(path, what=what, unpacks=_UNPACKS.get(path.suffix, ""))
    try:
        file = path.open("rb", buffering=_BUFFER)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {what}") from None
    if path.suffix not in _NEW_FRAME:
        return file
    return cast(BinaryIO, io.BufferedReader(_FrameStream(file, _NEW_FRAME[path.suffix]), _BUFFER))


class ForwardReader:
    """Reads pieces of a stream by their offset: cheap forwards; backwards a compressed stream starts anew."""

    def __init__(self, path: Path, *, what: str) -> None:
        self._path = path
        self._what = what
        self._file = open_stream(path, what=what)
        self._position = 0

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer at the end.

        Raises: InputError where the file is damaged.
        """
        try:
            self._go_to(offset)
            data = self._file.read(length)
        except DAMAGE as error:
            raise InputError(f"{self._path} cannot be read at byte {offset}: {describe(error)}") from None
        self._position += len(data)
        return data

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _go_to(self, offset: int) -> None:
        if self._position == offset:
            return
        if not is_compressed(self._path):
            self._file.seek(offset)
        else:
            if offset < self._position:
                self._file.close()
                self._file, self._position = open_stream(self._path, what=self._what), 0
            while self._position < offset:
                skipped = self._file.read(min(offset - self._position, _BUFFER))
                if not skipped:
                    raise EOFError("the content ends before")
                self._position += len(skipped)
        self._position = offset


def describe(error: BaseException) -> str:
    """The cause in a few words."""
    return str(error) or type(error).__name__


class _Frame(Protocol):
    """What zlib and zstandard unpack one frame with."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _FrameStream(io.RawIOBase):
    """The content of one or several frames.

    The libraries' own readers take a cut .zst for a whole one, and lose what stands before the cut of a .gz.
    """

    def __init__(self, file: BinaryIO, new_frame: Callable[[], _Frame]) -> None:
        self._file = file
        self._new_frame = new_frame
        self._frame: _Frame | None = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            data = self._file.read(_CHUNK)
            if not data and self._frame is not None:
                raise EOFError("the compressed file ends too early")
            if not data:
                return 0
            self._ready = memoryview(self._decompress(data))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        super().close()
        self._file.close()

    def _decompress(self, data: bytes) -> bytes:
        parts = []
        while data:
            frame = self._frame or self._new_frame()
            parts.append(frame.decompress(data))
            # Zeros between frames are padding.
            data = frame.unused_data.lstrip(b"\0") if frame.eof else b""
            self._frame = None if frame.eof else frame
        return b"".join(parts)


_NEW_FRAME: dict[str, Callable[[], _Frame]] = {
    ".gz": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
"""Ending -> what unpacks a frame of it."""
_UNPACKS: dict[str, Archive] = {".gz": "gzip", ".zst": "zstd"}
