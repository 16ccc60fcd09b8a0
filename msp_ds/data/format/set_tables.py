"""The parts of a shard while it grows: the tar, the pair table, the sum of its features.

P pairs, F feature width.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import webdataset
from numpy.lib import format as npy_format

from msp_ds.data.format.set_layout import MEMBER_ENDING, ShardEntry
from msp_ds.data.format.text import WordPieces
from msp_ds.errors import InputError
from msp_ds.records import RegionRecord
from msp_ds.stateless_random import PAIR_KEY, key_of
from msp_ds.storage.checksums import FileEntry

TAR_BLOCK = 512
"""Bytes of a tar header; payloads are padded to a multiple."""

PAIR_COLUMNS = ("keys", "image_rows", "offsets", "token_ids", "word_positions")

_WRITE_BYTES = 1 << 20


class TarShard:
    """One tar of a set, with what the index says of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.tmp")
        self._file = _HashingFile(self._unfinished)
        # mtime 0: the same images give the same bytes. encoder False: payloads go in as they are.
        self._writer = webdataset.TarWriter(self._file, mtime=0, encoder=False)
        self._keys: list[str] = []
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        self._crc32: list[int] = []
        self._region_counts: list[int] = []

    @property
    def num_images(self) -> int:
        """Images so far."""
        return len(self._keys)

    @property
    def num_bytes(self) -> int:
        """Size so far, bytes."""
        return int(self._writer.tarstream.offset)

    def add(self, key: str, payload: bytes, *, region_count: int) -> None:
        """Append one payload as member `key.mp`."""
        start = self.num_bytes
        self._writer.write({"__key__": key, MEMBER_ENDING: payload})
        padded = -(-len(payload) // TAR_BLOCK) * TAR_BLOCK
        if self.num_bytes != start + TAR_BLOCK + padded:
            raise InputError(f"{self._path}: the name of {key} does not fit a plain tar header")
        self._keys.append(key)
        self._offsets.append(start + TAR_BLOCK)
        self._lengths.append(len(payload))
        self._crc32.append(zlib.crc32(payload))
        self._region_counts.append(region_count)

    def close(self) -> ShardEntry:
        """End the tar, force it down to the disk and give it its name; its entry in the index."""
        self._writer.close()
        self._file.close_durably()
        self._unfinished.rename(self._path)
        return ShardEntry(
            name=self._path.name,
            bytes=self._file.num_bytes,
            sha256=self._file.digest.hexdigest(),
            keys=tuple(self._keys),
            offsets=tuple(self._offsets),
            lengths=tuple(self._lengths),
            crc32=tuple(self._crc32),
            region_counts=tuple(self._region_counts),
        )

    def abandon(self) -> None:
        """Let go of an unfinished tar and remove it; on a full disk even closing fails."""
        with suppress(OSError):
            self._writer.close()
        with suppress(OSError):
            self._file.file.close()
        self._unfinished.unlink(missing_ok=True)


class _HashingFile:
    """A file that sums up what is written to it. It gathers first: a tar comes in pieces of 10 KB."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb", buffering=0)
        self.digest = hashlib.sha256()
        self.num_bytes = 0
        self._gathered = bytearray()

    def write(self, data: bytes) -> int:
        self._gathered += data
        self.num_bytes += len(data)
        if len(self._gathered) >= _WRITE_BYTES:
            self._pass_on()
        return len(data)

    def close_durably(self) -> None:
        self._pass_on()
        os.fsync(self.file.fileno())
        self.file.close()

    def _pass_on(self) -> None:
        self.digest.update(self._gathered)
        rest = memoryview(self._gathered)
        while rest:
            # A nearly full disk takes a part, and says only to the next call that it is full.
            rest = rest[self.file.write(rest) :]
        self._gathered = bytearray()


class PairTable:
    """Texts as word pieces, in the order of their images."""

    def __init__(self, pieces: WordPieces, *, max_tokens: int) -> None:
        self._pieces = pieces
        self._max_tokens = max_tokens
        self._keys = array("q")
        self._image_rows = array("i")
        self._offsets = array("q", [0])
        self._token_ids = array("i")
        self._word_positions = array("h")
        self.num_truncated = 0
        """Texts that were longer than max_tokens."""

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, *, image_id: str, image_row: int, texts: list[str]) -> None:
        """Append all texts of one image."""
        for ordinal, text in enumerate(texts):
            encoded = self._pieces.encode(text, max_tokens=self._max_tokens)
            self._keys.append(key_of(PAIR_KEY.format(image_id=image_id, ordinal=ordinal, text=text)))
            self._image_rows.append(image_row)
            self._token_ids.extend(encoded.token_ids)
            self._word_positions.extend(encoded.word_positions)
            self._offsets.append(len(self._token_ids))
            self.num_truncated += encoded.truncated

    def arrays(self) -> dict[str, np.ndarray]:
        """keys int64 [P], image_rows int32 [P], offsets int64 [P + 1], token_ids int32, word_positions int16."""
        return {
            "keys": np.array(self._keys, dtype=np.int64),
            "image_rows": np.array(self._image_rows, dtype=np.int32),
            "offsets": np.array(self._offsets, dtype=np.int64),
            "token_ids": np.array(self._token_ids, dtype=np.int32),
            "word_positions": np.array(self._word_positions, dtype=np.int16),
        }


class FeatureSum:
    """The sum of all region features of a shard, in the order of its images."""

    def __init__(self) -> None:
        self.total = np.zeros(0)
        """float64 [F]; empty before the first image."""
        self.count = 0
        """Regions so far."""

    def add(self, record: RegionRecord) -> None:
        """Count in the regions of one image.

        Raises: InputError when their width differs from that of the images before.
        """
        width = record.features.shape[1]
        if self.count:
            require_one_width(width, len(self.total), where=record.source)
        # torch: numpy takes ten times as long from float16. The copy is for arrays that may not be written to.
        values = torch.from_numpy(record.features.copy()).to(torch.float32).numpy()
        self.total = values.sum(axis=0, dtype=np.float64) + (self.total if self.count else 0.0)
        self.count += len(values)


def require_one_width(width: int, before: int, *, where: str) -> None:
    """Demand that features are as wide as those before.

    Raises: InputError, starting with `where`, when not.
    """
    if width != before:
        raise InputError(
            f"{where}: features are {width} wide, those of the images before {before}; "
            "one set holds the features of one extractor"
        )


class Column(NamedTuple):
    """An array by its blocks of rows, which need not be in memory together."""

    length: int
    """Rows of all blocks."""
    blocks: Iterable[np.ndarray]
    """At least one; all of one type and width."""


def join_pairs(tables: Sequence[Mapping[str, np.ndarray]], num_images: Sequence[int]) -> dict[str, Column]:
    """The pair table of shards that follow each other, from theirs and their numbers of images: a block a shard."""
    first_rows = [0, *accumulate(num_images[:-1])]
    *first_tokens, num_tokens = accumulate((int(table["offsets"][-1]) for table in tables), initial=0)
    num_pairs = sum(len(table["keys"]) for table in tables)
    image_rows = (table["image_rows"] + first for table, first in zip(tables, first_rows, strict=True))
    starts = (table["offsets"][:-1] + first for table, first in zip(tables, first_tokens, strict=True))
    return {
        "keys": Column(num_pairs, (table["keys"] for table in tables)),
        "image_rows": Column(num_pairs, image_rows),
        "offsets": Column(num_pairs + 1, chain(starts, [np.array([num_tokens], dtype=np.int64)])),
        "token_ids": Column(num_tokens, (table["token_ids"] for table in tables)),
        "word_positions": Column(num_tokens, (table["word_positions"] for table in tables)),
    }


def npy_bytes(values: np.ndarray) -> memoryview:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getbuffer()


def npz_bytes(arrays: dict[str, np.ndarray]) -> memoryview:
    """A .npz file, uncompressed; its entries carry no date, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getbuffer()


def write_npz(path: Path, columns: Mapping[str, Column]) -> FileEntry:
    """Write the bytes that `npz_bytes` would give down to the disk, a block at a time; their number and sha256."""
    digest = hashlib.sha256()
    with path.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _write_column(member, column)
        file.flush()
        os.fsync(file.fileno())
        # A zip is not written from start to end: the length of a member goes in front of it.
        file.seek(0)
        while data := file.read(_WRITE_BYTES):
            digest.update(data)
        return FileEntry(bytes=file.tell(), sha256=digest.hexdigest())


def _write_column(file: IO[bytes], column: Column) -> None:
    """Write a column as a .npy file."""
    header: dict[str, Any] = {}
    for block in column.blocks:
        if not header:
            header = npy_format.header_data_from_array_1_0(block)
            header["shape"] = (column.length, *block.shape[1:])
            npy_format.write_array_header_1_0(file, header)
        file.write(block.data)
