"""Plain and compressed files (.gz, .bz2, .zst) as streams of bytes that are read forwards."""

import bz2
import io
import logging
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

from msp_ds.errors import InputError
from msp_ds.storage.file_kinds import Archive
from msp_ds.storage.small_files import open_regular

try:
    import zstandard
except ImportError:  # optional: open_stream names it where a file needs it
    zstandard = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_BUFFER = 1 << 20
_CHUNK = 1 << 17

DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, *([zstandard.ZstdError] if zstandard else []))
"""Exceptions that reading a damaged stream raises."""


def is_compressed(path: Path) -> bool:
    """Whether the file's ending is that of a compressed file."""
    return path.suffix in _COMPRESSIONS


def open_stream(path: Path, *, what: str) -> BinaryIO:
    """Open a file, decompressed according to its ending. Raises: InputError when it cannot be opened."""
    if path.suffix == ".zst" and zstandard is None:
        raise InputError(f"{path} needs the package zstandard to be read; run: pip install zstandard")
    try:
        file = open_regular(path, what=what, unpacks=_UNPACKS.get(path.suffix, ""), buffering=_BUFFER)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {what}") from None
    if not is_compressed(path):
        return file
    return cast(BinaryIO, io.BufferedReader(_FrameStream(file, _COMPRESSIONS[path.suffix], path), _BUFFER))


class ForwardReader:
    """Reads ranges of a stream: cheap forwards; to go backwards, a compressed stream is read from its start again."""

    def __init__(self, path: Path, *, what: str) -> None:
        self._path = path
        self._what = what
        self._file = open_stream(path, what=what)
        self._position = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer at the end. Raises: InputError where the file is damaged."""
        try:
            self._go_to(offset)
            data = self._file.read(length)
        except DAMAGE as error:
            raise InputError(f"{self._path} cannot be read at byte {offset}: {describe(error)}") from None
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
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
    """Return the message of an exception, or its type where it has none."""
    return str(error) or type(error).__name__


class _Frame(Protocol):
    """The interface of the decompressors of zlib, bz2 and zstandard."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Compression(NamedTuple):
    """One compression format."""

    magic: tuple[bytes, ...]
    """A frame starts with one of these, all of the same length."""
    new_frame: Callable[[], _Frame]


class _FrameStream(io.RawIOBase):
    """The content of one or several frames.

    The libraries' own readers accept a truncated .zst without an error, and lose the data before the end of a truncated
    .gz. Bytes behind the last frame that are not a frame are ignored with a warning, as gzip does.
    """

    def __init__(self, file: BinaryIO, compression: _Compression, path: Path) -> None:
        self._file = file
        self._compression = compression
        self._path = path
        self._frame: _Frame | None = None
        self._has_frame = False
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
            if self._frame is None and self._has_frame and not (data := self._next_frame(data)):
                break
            frame = self._frame or self._compression.new_frame()
            parts.append(frame.decompress(data))
            self._has_frame = True
            data = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        return b"".join(parts)

    def _next_frame(self, data: bytes) -> bytes:
        """Return `data` from the start of the next frame; empty where there is none."""
        data = data.lstrip(b"\0")  # zeros between frames are padding
        length = len(self._compression.magic[0])
        while 0 < len(data) < length and (more := self._file.read(_CHUNK)):
            data += more
        if any(magic.startswith(data[:length]) for magic in self._compression.magic):
            return data
        _warn_of_rest(self._path)
        self._file.seek(0, io.SEEK_END)
        return b""


@lru_cache  # one warning a file, which is opened several times
def _warn_of_rest(path: Path) -> None:
    log.warning("%s: the bytes behind the end of its compressed content are ignored", path)


_COMPRESSIONS = {
    ".gz": _Compression((b"\x1f\x8b",), lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    ".bz2": _Compression((b"BZh",), bz2.BZ2Decompressor),
    # A frame of content, or one of the sixteen kinds of skippable frames.
    ".zst": _Compression(
        (b"\x28\xb5\x2f\xfd", *(bytes([kind]) + b"\x2a\x4d\x18" for kind in range(0x50, 0x60))),
        lambda: zstandard.ZstdDecompressor().decompressobj(),
    ),
}
"""Ending -> compression format."""
_UNPACKS: dict[str, Archive] = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}
