"""Texts by image, which lie on the disk once they are many: memory is for where they are, not for what they say.

Visual Genome's 5.4 million phrases are short, so that as strings of their own they would mostly be overhead.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping

from msp_ds.errors import InputError
from msp_ds.storage.positioned_reads import read_at

_BETWEEN = "\n"
"""Squeezed texts hold none."""
_IN_MEMORY = 1 << 23
"""Bytes that wait for the disk."""
_HEAD = struct.Struct("<qq")
"""In front of what was added at once: where what the image got before begins, -1 for nothing; its own length, bytes."""
_NONE = -1


class TextTable(Mapping[str, list[str]]):
    """Canonical image id -> its texts, in the order in which they were added; a mapping of lists that are copies.

    What does not fit a few megabytes is in a nameless file in the system's folder for such; it goes with the table.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        """Where what was added last to an image begins."""
        self._file = -1
        self._num_written = 0
        """Bytes in the file; the others are in memory."""
        self._waiting = bytearray()

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def add(self, image_id: str, texts: Iterable[str]) -> None:
        """Append texts, none of them empty or with a line feed, to those of an image.

        Raises: InputError when the disk is full.
        """
        joined = _BETWEEN.join(texts).encode()
        if joined:
            place = self._num_written + len(self._waiting)
            self._waiting += _HEAD.pack(self._last.get(image_id, _NONE), len(joined)) + joined
            self._last[image_id] = place
            if len(self._waiting) >= _IN_MEMORY:
                self._write()

    def drain(self) -> Iterator[tuple[str, list[str]]]:
        """All images with their texts, each of which leaves the table: for a second table in the memory of one."""
        for image_id in list(self._last):
            texts = self[image_id]
            del self._last[image_id]
            yield image_id, texts

    def __getitem__(self, image_id: str) -> list[str]:
        place, parts = self._last[image_id], []
        while place != _NONE:
            before, length = _HEAD.unpack(self._bytes(place, _HEAD.size))
            parts.append(self._bytes(place + _HEAD.size, length).decode())
            place = before
        return _BETWEEN.join(reversed(parts)).split(_BETWEEN)

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def _bytes(self, place: int, length: int) -> bytes:
        if place < self._num_written:
            return read_at(self._file, length, place)
        start = place - self._num_written
        return bytes(self._waiting[start : start + length])

    def _write(self) -> None:
        try:
            if self._file < 0:
                with tempfile.TemporaryFile(buffering=0) as file:
                    self._file = os.dup(file.fileno())
            rest = memoryview(self._waiting)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()} cannot hold the texts ({error.strerror}); free its disk or set TMPDIR"
            ) from None
        self._num_written += len(self._waiting)
        self._waiting = bytearray()
