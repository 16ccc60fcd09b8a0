"""One shard of a set during writing: its tar and its part, the data that the set's tables and index need of it.

A part on the disk marks its tar as finished, so that a later run does not write it again.

P pairs of the shard, F feature width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from msp_ds.config import from_json, to_json
from msp_ds.data.format.faults import SkippedRow
from msp_ds.data.format.set_layout import ShardEntry, pack_record
from msp_ds.data.format.set_tables import PAIR_COLUMNS, FeatureSum, PairTable, TarShard, npz_bytes
from msp_ds.data.format.text import WordPieces
from msp_ds.errors import InputError
from msp_ds.records import RegionRecord
from msp_ds.storage.array_files import load_arrays
from msp_ds.storage.atomic_files import sync_folder, write_atomically

PART_ENDING = ".part"
_PART = "the part of a finished tar"


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """The numbers of a part."""

    num_truncated: int
    """Texts that were truncated."""
    num_regions: int
    """Regions of all its images."""
    counts: dict[str, int]
    """Counts of what was fixed or left out."""
    entry: ShardEntry
    """The shard's entry in the index. Without keys there is no tar, since no image had a text."""
    skipped: tuple[SkippedRow, ...] = ()
    """Unusable rows."""


@dataclass(frozen=True, kw_only=True)
class ShardPart:
    """The contribution of a finished shard to its set."""

    facts: PartFacts
    pairs: Mapping[str, np.ndarray]
    """Its pair table, in memory or on the disk; image_rows count within the shard."""
    feature_sum: np.ndarray
    """float64 [F], sum over all regions; empty without images."""

    @property
    def num_images(self) -> int:
        """Images in the tar."""
        return len(self.facts.entry.keys)


class ShardWriter:
    """Writes one shard as a context: `add` for each image, then `finish`. Without `finish` no tar remains."""

    def __init__(self, path: Path, *, pieces: WordPieces, max_tokens: int) -> None:
        self._path = path
        self._tar: TarShard | None = None
        self._pairs = PairTable(pieces, max_tokens=max_tokens)
        self._features = FeatureSum()
        self._num_images = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._tar is not None:
            self._tar.abandon()

    @property
    def num_images(self) -> int:
        """Images so far."""
        return self._num_images

    @property
    def num_bytes(self) -> int:
        """Bytes of the tar so far."""
        return self._tar.num_bytes if self._tar is not None else 0

    def add(self, record: RegionRecord, texts: list[str]) -> None:
        """Append an image with at least one text. Raises: InputError for features of another width than before."""
        if self._tar is None:
            self._tar = TarShard(self._path)
        self._features.add(record)
        self._pairs.add(image_id=record.image_id, image_row=self._num_images, texts=texts)
        self._tar.add(record.image_id, pack_record(record, texts), region_count=len(record.features))
        self._num_images += 1

    def finish(self, counts: dict[str, int], *, skipped: Sequence[SkippedRow] = ()) -> ShardPart:
        """Complete the tar, synced to the disk. counts, skipped: what was fixed or left out."""
        entry = self._tar.close() if self._tar is not None else _no_tar(self._path.name)
        self._tar = None
        facts = PartFacts(
            num_truncated=self._pairs.num_truncated,
            num_regions=self._features.count,
            counts=counts,
            entry=entry,
            skipped=tuple(skipped),
        )
        return ShardPart(facts=facts, pairs=self._pairs.arrays(), feature_sum=self._features.total)


class _SavedPairs(Mapping[str, np.ndarray]):
    """The pair table of a saved part. Columns are read on access, since those of all shards take 80 MB."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> np.ndarray:
        return load_arrays(self._path, [name], what=_PART)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(PAIR_COLUMNS)

    def __len__(self) -> int:
        return len(PAIR_COLUMNS)


def save_part(part: ShardPart, *, tar: Path, recipe_hash: str) -> ShardPart:
    """Save a part beside its tar and return it with its pair table on the disk. recipe_hash: the sources' hash."""
    head = json.dumps({"recipe_hash": recipe_hash, "facts": to_json(part.facts)}).encode()
    arrays = {"head": np.frombuffer(head, np.uint8), "feature_sum": part.feature_sum, **part.pairs}
    unfinished = tar.with_name(f"{tar.name}{PART_ENDING}.tmp")
    write_atomically(_part_path(tar), npz_bytes(arrays), temporary=unfinished)
    sync_folder(tar.parent)
    return dataclasses.replace(part, pairs=_SavedPairs(_part_path(tar)))


def load_part(tar: Path, *, recipe_hash: str) -> ShardPart | None:
    """Return the part of a finished tar; None where there is none, or tar and part do not match the recipe."""
    path = _part_path(tar)
    try:
        arrays = load_arrays(path, ["head", "feature_sum", *PAIR_COLUMNS], what=_PART)
        head: dict[str, Any] = json.loads(arrays["head"].tobytes())
        facts = from_json(PartFacts, head["facts"], where=str(path))
        size = tar.stat().st_size if facts.entry.keys else 0
    except (InputError, OSError, ValueError, KeyError, TypeError):
        # Writing the shard again fixes any fault of a part.
        return None
    if head.get("recipe_hash") != recipe_hash or size != facts.entry.bytes:
        return None
    return ShardPart(facts=facts, feature_sum=arrays["feature_sum"], pairs=_SavedPairs(path))


def _part_path(tar: Path) -> Path:
    return tar.with_name(f"{tar.name}{PART_ENDING}")


def _no_tar(name: str) -> ShardEntry:
    return ShardEntry(name=name, bytes=0, sha256="", keys=(), offsets=(), lengths=(), crc32=(), region_counts=())
