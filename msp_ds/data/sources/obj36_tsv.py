"""LXMERT's region features: ten tab-separated columns without a header, one image a row.

`img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features`, the arrays in base64:
ids int64 [N], confidences float32 [N], boxes float32 [N, 4] in pixels, features float32 [N, F]; little-endian.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pybase64

from msp_ds.data.identity import Corpus, canonical_image_id
from msp_ds.data.sources.region_checks import LabelCounts, RawRegions, Reading, RegionRow, checked
from msp_ds.errors import InputError

COLUMNS = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)


class TsvRegions:
    """A TSV file of regions; a 30 GB file needs the memory of one row."""

    def __init__(self, path: Path, corpus: Corpus) -> None:
        self.path = path
        self.corpus = corpus

    def rows(self) -> Iterator[RegionRow]:
        """Where each image stands, numbers from 1, without decoding the arrays.

        Raises: InputError naming file, row and byte offset for a first column that is no image id, and an empty file.
        """
        offset = 0
        with self._open() as file:
            for number, line in enumerate(file, start=1):
                where = self._where(number, offset)
                first, tab, _ = line.partition(b"\t")
                if not tab:
                    raise InputError(_column_fault(where, line))
                image_id = canonical_image_id(_text(where, first), corpus=self.corpus, where=where)
                yield RegionRow(image_id, number, offset, len(line))
                offset += len(line)
        if not offset:
            raise InputError(f"{self.path} is empty; it should be a TSV of region features")

    def read(self, row: RegionRow, labels: LabelCounts) -> Reading:
        """The image in a row.

        Raises: InputError naming file, row, byte offset and image: for a row that is cut off, an array of another
        length than its number of boxes asks for, and what `checked` refuses. A partial last row is an error too.
        """
        if self._file.tell() != row.offset:
            self._file.seek(row.offset)
        line = self._file.read(row.length)
        where, source = self._where(row.number, row.offset), f"{self.path.name} row {row.number}"
        return checked(_read_row(where, line, source=source, corpus=self.corpus), labels=labels)

    @cached_property
    def _file(self) -> BinaryIO:
        return self._open()

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb", buffering=1 << 20)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}); it should be a TSV of region features"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def _where(self, number: int, offset: int) -> str:
        return f"{self.path} row {number} (byte {offset})"


def _read_row(where: str, line: bytes, *, source: str, corpus: Corpus) -> RawRegions:
    columns = line.rstrip(b"\r\n").split(b"\t")
    if len(columns) != len(COLUMNS):
        raise InputError(_column_fault(where, line))
    row = dict(zip(COLUMNS, columns, strict=True))
    image_id = canonical_image_id(_text(where, row["img_id"]), corpus=corpus, where=where)
    where = f"{where}, image {image_id}"
    count = _whole_number(where, "num_boxes", row["num_boxes"])
    if count <= 0:
        raise InputError(f"{where}: num_boxes is {count}; an image needs at least one region")
    return RawRegions(
        where=where,
        source=source,
        image_id=image_id,
        height=_whole_number(where, "img_h", row["img_h"]),
        width=_whole_number(where, "img_w", row["img_w"]),
        boxes=_array(where, "boxes", row["boxes"], dtype="<f4", count=count, width=4).reshape(count, 4),
        object_ids=_array(where, "objects_id", row["objects_id"], dtype="<i8", count=count, width=1),
        object_scores=_array(where, "objects_conf", row["objects_conf"], dtype="<f4", count=count, width=1),
        attribute_ids=_array(where, "attrs_id", row["attrs_id"], dtype="<i8", count=count, width=1),
        attribute_scores=_array(where, "attrs_conf", row["attrs_conf"], dtype="<f4", count=count, width=1),
        features=_array(where, "features", row["features"], dtype="<f4", count=count).reshape(count, -1),
    )


def _column_fault(where: str, line: bytes) -> str:
    count = line.count(b"\t") + 1
    return f"{where}: has {count} columns instead of {len(COLUMNS)}; the row is cut off or of another layout"


def _text(where: str, column: bytes) -> str:
    try:
        return column.decode("ascii")
    except UnicodeDecodeError:
        raise InputError(f"{where}: the image id is no plain ASCII text") from None


def _whole_number(where: str, name: str, column: bytes) -> int:
    try:
        return int(column)
    except ValueError:
        raise InputError(f"{where}: {name} should be a whole number, but is {column[:40]!r}") from None


def _array(where: str, name: str, column: bytes, *, dtype: str, count: int, width: int | None = None) -> np.ndarray:
    """The numbers in a base64 column: `count` x `width` of them, or any multiple of `count` where width is None."""
    if column[:2] in (b"b'", b'b"'):
        # Some Python 3 extractors wrote str(bytes).
        column = column[2:-1]
    try:
        data = pybase64.b64decode(column, validate=True)
    except binascii.Error as error:
        raise InputError(f"{where}: column {name} is broken base64 ({error}); the row is cut off or damaged") from None
    size = np.dtype(dtype).itemsize
    row_bytes = (len(data) // count // size if width is None else width) * size
    if not row_bytes or len(data) != row_bytes * count:
        wanted = f"{row_bytes * count} bytes" if width else f"a multiple of {count * size} bytes"
        raise InputError(f"{where}: column {name} holds {len(data)} bytes instead of {wanted} for {count} boxes")
    return np.frombuffer(data, dtype=dtype)
