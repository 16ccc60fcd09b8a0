"""Find every fault of one tar of a shard set: headers, padding and payloads against the index and the pair table.

R regions of an image, F feature width.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from msp_ds.data.format.set_layout import MEMBER_ENDING, SetIndex, ShardEntry, unpack_record
from msp_ds.data.format.set_tables import TAR_BLOCK
from msp_ds.data.format.shards import Pairs
from msp_ds.data.format.text import WordPieces
from msp_ds.errors import ShardError
from msp_ds.records import IGNORE, RegionRecord
from msp_ds.stateless_random import PAIR_KEY, key_of

_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class PairRows:
    """The pair table, by image."""

    pairs: Pairs
    order: np.ndarray
    """int64 [P]: pairs, those of the first image first."""
    ends: np.ndarray
    """int64 [N + 1]: image n has the pairs order[ends[n] : ends[n + 1]]."""
    pieces: WordPieces
    max_tokens: int

    @classmethod
    def of(cls, pairs: Pairs, *, num_images: int, pieces: WordPieces, max_tokens: int) -> PairRows:
        """Group a table by its images, 0 to num_images - 1."""
        order = np.argsort(pairs.image_rows, kind="stable")
        ends = np.searchsorted(pairs.image_rows[order], np.arange(num_images + 1))
        return cls(pairs=pairs, order=order, ends=ends, pieces=pieces, max_tokens=max_tokens)

    def faults(self, row: int, image_id: str, texts: list[str]) -> Iterator[str]:
        """Yield the differences between the table and the texts in the record of an image: number, wording, pieces.

        Every text is compared by its key. One text an image is tokenized again, which detects a table made with another
        vocabulary; tokenizing all would take longer than everything else, and the table has its sha256.
        """
        places = self.order[self.ends[row] : self.ends[row + 1]]
        if len(places) != len(texts):
            yield f"has {len(texts)} texts, the pair table {len(places)}"
            return
        if not all(isinstance(text, str) for text in texts):
            yield "holds a text that is not a string"
            return
        if not texts:  # the second image of a statement
            return
        for ordinal, (key, text) in enumerate(zip(self.pairs.keys[places].tolist(), texts, strict=True)):
            if key != key_of(PAIR_KEY.format(image_id=image_id, ordinal=ordinal, text=text)):
                yield f"text {ordinal} is {text[:40]!r}, which differs from the text of the pair table"
        probed = row % len(texts)
        if not self._has_pieces_of(texts[probed], int(places[probed])):
            yield f"text {probed}, {texts[probed][:40]!r}, has other word pieces in the pair table"

    def _has_pieces_of(self, text: str, pair: int) -> bool:
        start, end = self.pairs.offsets[pair : pair + 2]
        encoded = self.pieces.encode(text, max_tokens=self.max_tokens)
        return bool(
            self.pairs.token_ids[start:end].tolist() == encoded.token_ids
            and self.pairs.word_positions[start:end].tolist() == encoded.word_positions
        )


@dataclass(frozen=True, kw_only=True)
class TarPlan:
    """The expected contents of a tar."""

    path: Path
    entry: ShardEntry
    index: SetIndex
    first_row: int
    """Row of its first image in the set."""
    pair_rows: PairRows | None
    """None where the pair table is unusable."""


def scan_tar(plan: TarPlan, *, advance: Callable[[int], None]) -> list[str]:
    """Return each fault of a tar with file, image and byte. advance: called with the number of bytes read."""
    try:
        with plan.path.open("rb") as file:
            reader = _HashingReader(file, advance)
            faults = [*_member_faults(plan, reader), *_ending_faults(plan, reader)]
    except OSError as error:
        return [f"{plan.path} cannot be read ({error.strerror})"]
    if not faults and reader.digest.hexdigest() != plan.entry.sha256:
        # Other faults would explain another hash; without them, header fields or the index were changed.
        faults = [f"{plan.path} differs from the sha256 in the index, though every image in it is valid"]
    return faults


class _HashingReader:
    """Reads a file once from start to end and hashes it."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self.digest = hashlib.sha256()
        self.position = 0
        self._file = file
        self._advance = advance

    def read(self, size: int) -> bytes:
        """Read the next bytes, fewer at the end of the file."""
        data = self._file.read(size)
        self.digest.update(data)
        self.position += len(data)
        self._advance(len(data))
        return data


def _member_faults(plan: TarPlan, file: _HashingReader) -> Iterator[str]:
    entry = plan.entry
    for number, (key, offset, length) in enumerate(zip(entry.keys, entry.offsets, entry.lengths, strict=True)):
        where = f"{plan.path}, {key} at byte {offset}"
        gap_start = file.position
        gap = file.read(offset - gap_start)
        payload = file.read(length)
        if len(payload) < length:
            missing = len(entry.keys) - number - 1
            others = f" and the {missing} images after it are" if missing else " is"
            yield f"{where}: the file ends at byte {file.position}; this image{others} cut off"
            return
        for fault in _header_faults(gap, gap_start=gap_start, name=f"{key}.{MEMBER_ENDING}", size=length):
            yield f"{where}: {fault}"
        yield from _payload_faults(plan, number, payload, where=where)


def _header_faults(gap: bytes, *, gap_start: int, name: str, size: int) -> Iterator[str]:
    """Check the padding of the previous payload and one tar header."""
    fill = -gap_start % TAR_BLOCK
    if len(gap) != fill + TAR_BLOCK:
        yield f"the index leaves {len(gap)} bytes before it instead of {fill + TAR_BLOCK}"
        return
    if any(gap[:fill]):
        yield f"bytes other than zero before it, from byte {gap_start + _first_nonzero(gap)}"
    try:
        header = tarfile.TarInfo.frombuf(gap[fill:], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        yield f"its tar header at byte {gap_start + fill} is damaged ({error})"
        return
    if (header.name, header.size, header.isreg()) != (name, size, True):
        yield f"its tar header is that of {header.name!r} with {header.size} bytes instead of {name!r} with {size}"


def _ending_faults(plan: TarPlan, file: _HashingReader) -> Iterator[str]:
    """Check that only zeros follow the last payload: its padding, then at least two blocks."""
    start, first_wrong = file.position, -1
    if start < plan.entry.offsets[-1] + plan.entry.lengths[-1]:
        return  # truncated before, which is reported already
    while chunk := file.read(_CHUNK):
        if first_wrong < 0 and any(chunk.lstrip(b"\0")[:1]):
            first_wrong = file.position - len(chunk) + _first_nonzero(chunk)
    if first_wrong >= 0:
        yield f"{plan.path}: bytes other than zero after the last image, from byte {first_wrong}"
    elif file.position == start or file.position - start - (-start % TAR_BLOCK) < 2 * TAR_BLOCK:
        yield f"{plan.path} ends at byte {file.position} without the two blocks of zeros that end a tar"


def _first_nonzero(data: bytes) -> int:
    return len(data) - len(data.lstrip(b"\0"))


def _payload_faults(plan: TarPlan, number: int, payload: bytes, *, where: str) -> Iterator[str]:
    if zlib.crc32(payload) != plan.entry.crc32[number]:
        yield f"{where}: the bytes do not match their checksum"
        return
    try:
        record, texts = unpack_record(payload, where=where)
    except ShardError as error:
        yield str(error)
        return
    key, row = plan.entry.keys[number], plan.first_row + number
    if record.image_id != key:
        yield f"{where}: holds image {record.image_id}"
    for fault in _record_faults(record, plan.index, region_count=plan.entry.region_counts[number]):
        yield f"{where}: {fault}"
    if plan.pair_rows is not None:
        for fault in plan.pair_rows.faults(row, key, texts):
            yield f"{where}: {fault}"


def _record_faults(record: RegionRecord, index: SetIndex, *, region_count: int) -> Iterator[str]:
    """Yield the differences between a record and the index, and values out of range."""
    num_regions, width = record.features.shape
    if num_regions != region_count:
        yield f"has {num_regions} regions, in the index {region_count}"
    if width != index.feature_width:
        yield f"has features {width} wide, in the index {index.feature_width}"
    sides = np.array([record.width, record.height] * 2, np.float32)
    boxes = record.boxes
    if not (np.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= sides).all()):
        yield f"has a box that is not finite or not within its {record.width} x {record.height} pixels"
    for kind, ids, count in (
        ("object", record.object_ids, index.num_objects),
        ("attribute", record.attribute_ids, index.num_attributes),
    ):
        if ids.size and not IGNORE <= ids.min() <= ids.max() < count:
            yield f"has an {kind} id outside the vocabulary of {count} labels"
    scores = np.concatenate([record.object_scores, record.attribute_scores])
    if not ((scores >= 0) & (scores <= 1.001)).all():
        yield "has a confidence that is not between 0 and 1"
