"""The parts of a shard set while it grows: a tar, the pair table, the mean feature.

P pairs, F feature width.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from array import array
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import webdataset

from msp_ds import chance
from msp_ds.data.set_layout import MEMBER_ENDING, ShardEntry
from msp_ds.data.text import WordPieces
from msp_ds.errors import InputError
from msp_ds.records import RegionRecord

TAR_BLOCK = 512
"""Bytes of a tar header; payloads are padded to a multiple."""


class TarShard:
    """One tar of a set, with what the index says of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _HashingFile(path.open("wb"))
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
        """End the tar and force it down to the disk; its entry in the index."""
        self._writer.close()
        self._file.close_durably()
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
        """Let go of the file, complete or not; on a full disk even closing fails."""
        with suppress(OSError):
            self._writer.close()
        with suppress(OSError):
            self._file.file.close()


class _HashingFile:
    """A file that sums up what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
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
    """The texts of a set as word pieces, in the order of their images."""

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
            self._keys.append(chance.key_of(f"{image_id}\n{ordinal}\n{text}"))
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


class FeatureMean:
    """The mean of all region features of a set."""

    def __init__(self) -> None:
        self._total = np.zeros(0)
        self._count = 0

    @property
    def width(self) -> int:
        """F; 0 before the first image."""
        return len(self._total)

    def add(self, record: RegionRecord) -> None:
        """Count in the regions of one image.

        Raises: InputError when their width differs from that of the images before.
        """
        width = record.features.shape[1]
        if self._count and width != self.width:
            raise InputError(
                f"{record.source}: features are {width} wide, those of the images before {self.width}; "
                "one set holds the features of one extractor"
            )
        # torch: numpy takes ten times as long from float16. The copy is for arrays that may not be written to.
        values = torch.from_numpy(record.features.copy()).to(torch.float32).numpy()
        self._total = values.sum(axis=0, dtype=np.float64) + (self._total if self._count else 0.0)
        self._count += len(values)

    def mean(self) -> np.ndarray:
        """float32 [F]."""
        return (self._total / self._count).astype(np.float32)


def npy_bytes(values: np.ndarray) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """A .npz file, uncompressed; its entries carry no date, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
