"""The parts of a shard while it is written: the tar, the pair table, the sum of its features.

P pairs, F feature width.
"""

import hashlib
import io
import os
import zipfile
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

from msp_ds.data.format.set_layout import MEMBER_ENDING, PAIR_TYPES, ShardEntry
from msp_ds.data.format.text import WordPieces
from msp_ds.errors import InputError
from msp_ds.records import RegionRecord
from msp_ds.stateless_random import PAIR_KEY, key_of
from msp_ds.storage.checksums import FileEntry, crc32, entry_of_file

TAR_BLOCK = 512
"""Bytes of a tar header; payloads are padded to a multiple."""

PAIR_COLUMNS = tuple(PAIR_TYPES)
_ENTRY_COLUMNS = ("keys", "offsets", "lengths", "crc32", "region_counts")
_ARRAY_CODES = {"int16": "h", "int32": "i", "int64": "q"}

_WRITE_BYTES = 1 << 20


class TarShard:
    """Writes one tar of a set and collects its entry in the index."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.tmp")
        self._file = _HashingFile(self._unfinished)
        # mtime 0: the same images give the same bytes. encoder False: payloads are written unchanged.
        self._writer = webdataset.TarWriter(self._file, mtime=0, encoder=False)
        self._images: list[tuple[str, int, int, int, int]] = []
        """One tuple per image, with the columns `_ENTRY_COLUMNS`."""

    @property
    def num_images(self) -> int:
        """Number of images so far."""
        return len(self._images)

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
        self._images.append((key, start + TAR_BLOCK, len(payload), crc32(payload), region_count))

    def close(self) -> ShardEntry:
        """Finish the tar, flush it to the disk and rename it; return its entry in the index."""
        self._writer.close()
        self._file.close_durably()
        self._unfinished.rename(self._path)
        return ShardEntry(
            name=self._path.name,
            bytes=self._file.num_bytes,
            sha256=self._file.digest.hexdigest(),
            **dict(zip(_ENTRY_COLUMNS, zip(*self._images, strict=True), strict=True)),
        )

    def abandon(self) -> None:
        """Close and remove an unfinished tar; on a full disk closing may fail too."""
        with suppress(OSError):
            self._writer.close()
        with suppress(OSError):
            self._file.file.close()
        self._unfinished.unlink(missing_ok=True)


class _HashingFile:
    """A file that computes its sha256 while it is written; the buffer is large since a tar comes in pieces of 10 KB."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb", buffering=_WRITE_BYTES)
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self.file.write(data)

    def close_durably(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class PairTable:
    """Collects the texts of a shard as word pieces, in the order of their images."""

    def __init__(self, pieces: WordPieces, *, max_tokens: int) -> None:
        self._pieces = pieces
        self._max_tokens = max_tokens
        self._columns = {name: array(_ARRAY_CODES[dtype]) for name, dtype in PAIR_TYPES.items()}
        self._columns["offsets"].append(0)
        self.num_truncated = 0
        """Texts that were longer than max_tokens."""

    def __len__(self) -> int:
        return len(self._columns["keys"])

    def add(self, *, image_id: str, image_row: int, texts: list[str]) -> None:
        """Append all texts of one image."""
        columns = self._columns
        for ordinal, text in enumerate(texts):
            encoded = self._pieces.encode(text, max_tokens=self._max_tokens)
            columns["keys"].append(key_of(PAIR_KEY.format(image_id=image_id, ordinal=ordinal, text=text)))
            columns["image_rows"].append(image_row)
            columns["token_ids"].extend(encoded.token_ids)
            columns["word_positions"].extend(encoded.word_positions)
            columns["offsets"].append(len(columns["token_ids"]))
            self.num_truncated += encoded.truncated

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns of `PAIR_TYPES`: offsets has P + 1 rows, token_ids and word_positions one per piece."""
        return {name: np.array(column, dtype=PAIR_TYPES[name]) for name, column in self._columns.items()}


class FeatureSum:
    """The sum of all region features of a shard, in the order of its images."""

    def __init__(self) -> None:
        self.total = np.zeros(0)
        """float64 [F]; empty before the first image."""
        self.count = 0
        """Regions so far."""

    def add(self, record: RegionRecord) -> None:
        """Add the regions of one image. Raises: InputError when their width differs from the images before."""
        width = record.features.shape[1]
        if self.count:
            require_one_width(width, len(self.total), where=record.source)
        # torch, since numpy takes ten times as long from float16; a copy, since the array may be read-only.
        values = torch.from_numpy(record.features.copy()).to(torch.float32).numpy()
        self.total = values.sum(axis=0, dtype=np.float64) + (self.total if self.count else 0.0)
        self.count += len(values)


def require_one_width(width: int, before: int, *, where: str) -> None:
    """Require that features are as wide as those before. Raises: InputError, which starts with `where`."""
    if width != before:
        raise InputError(
            f"{where}: features are {width} wide, those of the images before {before}; "
            "one set holds the features of one extractor"
        )


class Column(NamedTuple):
    """An array as blocks of rows, which need not be in memory together."""

    length: int
    """Rows of all blocks."""
    blocks: Iterable[np.ndarray]
    """At least one, all of one type and width."""


def join_pairs(tables: Sequence[Mapping[str, np.ndarray]], num_images: Sequence[int]) -> dict[str, Column]:
    """Join the pair tables of consecutive shards with these numbers of images, one block per shard."""
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
    """Return the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getbuffer()


def npz_bytes(arrays: dict[str, np.ndarray]) -> memoryview:
    """Return the bytes of an uncompressed .npz file; its entries have no date, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getbuffer()


def write_npz(path: Path, columns: Mapping[str, Column]) -> FileEntry:
    """Write the bytes that `npz_bytes` would return, block by block, and flush them; return their size and sha256."""
    with path.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _write_column(member, column)
        file.flush()
        os.fsync(file.fileno())
    # The sum is taken afterwards, since a zip is not written from start to end: lengths precede their members.
    return entry_of_file(path)


def _write_column(file: IO[bytes], column: Column) -> None:
    """Write a column as an .npy file."""
    header: dict[str, Any] = {}
    for block in column.blocks:
        if not header:
            header = npy_format.header_data_from_array_1_0(block)
            header["shape"] = (column.length, *block.shape[1:])
            npy_format.write_array_header_1_0(file, header)
        file.write(block.data)
