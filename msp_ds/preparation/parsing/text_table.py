"""Texts by image, kept on the disk once they exceed a few megabytes; only their positions stay in memory.

Visual Genome's 5.4 million phrases are so short that as Python strings they would be mostly overhead.
"""

import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping

from msp_ds.errors import InputError
from msp_ds.storage.positioned_reads import read_at

_SEPARATOR = "\n"
"""Texts with squeezed white space hold none."""
_BUFFER_BYTES = 1 << 23
"""Bytes that are buffered before they are written to the disk."""
_HEADER = struct.Struct("<qq")
"""Header of the texts of one `add`: position of the image's previous texts, -1 for none, and length in bytes."""
_NONE = -1


class TextTable(Mapping[str, list[str]]):
    """Canonical image id -> its texts in the order in which they were added; each access returns a new list.

    Texts beyond the buffer are in an unnamed temporary file, which is deleted with the table.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        """Image id -> position of its latest texts."""
        self._file = -1
        self._num_written = 0
        """Bytes in the file; later ones are in the buffer."""
        self._buffer = bytearray()

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def add(self, image_id: str, texts: Iterable[str]) -> None:
        """Append texts, not empty and without line feeds, to an image. Raises: InputError when the disk is full."""
        joined = _SEPARATOR.join(texts).encode()
        if joined:
            position = self._num_written + len(self._buffer)
            self._buffer += _HEADER.pack(self._last.get(image_id, _NONE), len(joined)) + joined
            self._last[image_id] = position
            if len(self._buffer) >= _BUFFER_BYTES:
                self._write()

    def drain(self) -> Iterator[tuple[str, list[str]]]:
        """Yield all images with their texts and remove each, so that a second table fits in the memory of one."""
        for image_id in list(self._last):
            texts = self[image_id]
            del self._last[image_id]
            yield image_id, texts

    def __getitem__(self, image_id: str) -> list[str]:
        position, parts = self._last[image_id], []
        while position != _NONE:
            before, length = _HEADER.unpack(self._bytes(position, _HEADER.size))
            parts.append(self._bytes(position + _HEADER.size, length).decode())
            position = before
        return _SEPARATOR.join(reversed(parts)).split(_SEPARATOR)

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def _bytes(self, position: int, length: int) -> bytes:
        if position < self._num_written:
            return read_at(self._file, length, position)
        start = position - self._num_written
        return bytes(self._buffer[start : start + length])

    def _write(self) -> None:
        try:
            if self._file < 0:
                with tempfile.TemporaryFile(buffering=0) as file:
                    self._file = os.dup(file.fileno())
            rest = memoryview(self._buffer)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()} cannot hold the texts ({error.strerror}); free its disk or set TMPDIR"
            ) from None
        self._num_written += len(self._buffer)
        self._buffer = bytearray()
