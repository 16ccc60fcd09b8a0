"""Read region features from tab-separated text without a header, one image a row; plain, .gz, .bz2 or .zst.

The number of columns determines one of four layouts. Arrays are base64, little-endian: ids int64 [N], confidences
float32 [N], boxes float32 [N, 4] in pixels, features float32 [N, F]; float16 and float64 features are recognised by
their bytes (feature_types.py).

| columns | layout | after img_id |
|---|---|---|
| 10 | LXMERT | img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features |
| 13 | VOLTA | LXMERT's, then cls_prob attrs classes, which are not needed |
| 6 | bottom-up attention | img_w img_h num_boxes boxes features: no labels |
| 7 | ViLBERT | bottom-up's, then cls_prob |
"""

import binascii
import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pybase64

from msp_ds.data.format.faults import Faults, RowAt, RowError, image_id_of_row
from msp_ds.data.format.image_ids import Corpus
from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts, RawRegions, RegionRow, checked
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.preparation.parsing.byte_streams import DAMAGE, ForwardReader, describe, is_compressed, open_stream
from msp_ds.preparation.region_features.feature_types import FeatureType, possible_types, types_of_rows

_BOTTOM_UP = ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features")
_LABELS = ("objects_id", "objects_conf", "attrs_id", "attrs_conf")
_LXMERT = ("img_id", "img_h", "img_w", *_LABELS, "num_boxes", "boxes", "features")


@dataclass(frozen=True, kw_only=True)
class TsvColumns:
    """A layout of columns."""

    name: str
    columns: tuple[str, ...]

    @property
    def has_labels(self) -> bool:
        """Whether the layout has the detector's labels."""
        return "objects_id" in self.columns


LAYOUTS = {
    len(layout.columns): layout
    for layout in (
        TsvColumns(name="LXMERT", columns=_LXMERT),
        TsvColumns(name="bottom-up attention", columns=_BOTTOM_UP),
        TsvColumns(name="ViLBERT", columns=(*_BOTTOM_UP, "cls_prob")),
        TsvColumns(name="VOLTA", columns=(*_LXMERT, "cls_prob", "attrs", "classes")),
    )
}
"""Number of columns -> layout."""

_WHAT = "a TSV of region features"
_WHOLE = re.compile(rb"\s*([+-]?\d{1,18})(?:\.0*)?\s*")
"""Some writers wrote sizes as floating-point numbers: 480.0."""
_LONGEST_ROW = 1 << 27
"""Bytes: a hundred boxes of 16,384 features."""
_ROWS_TO_TRY = 16
"""Rows at the start of a file that determine the type of its features; one of them must be complete."""
_NUMBERS_COMPARED, _LEAST_NUMBERS = 2048, 8
"""Numbers of a row by which its type is checked: at most so many, with at least so many nonzero."""


class _Shape(NamedTuple):
    """Properties that all rows of a file share."""

    layout: TsvColumns
    feature_type: FeatureType
    width: int
    """Numbers of a feature."""


class TsvRegions:
    """A TSV file of regions; a 30 GB file needs the memory of one row."""

    detector: DetectorRecord | None = None
    """No layout has a place for it."""

    def __init__(self, path: Path, corpus: Corpus, feature_type: FeatureType | None = None) -> None:
        """feature_type: given by the user, or inferred where it is None."""
        self.path = path
        self.corpus = corpus
        self._declared_type = feature_type

    @property
    def has_labels(self) -> bool:
        """Whether the layout has the detector's labels."""
        return self._shape.layout.has_labels

    def has_some(self, ids: str) -> bool:
        """Return whether the layout has labels; no row is read for it."""
        return self.has_labels

    @property
    def feature_type(self) -> str:
        """Type of the features in the file. Raises: InputError as `rows`."""
        return self._shape.feature_type

    @property
    def num_bytes(self) -> int | None:
        """The size of the file unless it is compressed."""
        return None if is_compressed(self.path) else self.path.stat().st_size

    def rows(self, faults: Faults | None = None) -> Iterator[RegionRow]:
        """Yield the row of each image, numbered from 1, with its offset in the decompressed file; arrays stay encoded.

        Rows with another number of columns, without an image id, or truncated at the end of the file are faults.

        Raises: InputError naming file, row and byte offset for a fault that `faults` does not accept, for an empty
        file, and for an unknown layout.
        """
        faults = faults or Faults()
        layout = self._shape.layout
        for number, offset, line in self._lines(faults):
            place = RowAt(self.path, number, offset)
            try:
                image_id = self._image_id(place, line, layout)
            except RowError as error:
                faults.add(error)
            else:
                yield RegionRow(image_id, number, offset, len(line))

    def read(self, row: RegionRow, labels: LabelCounts) -> CheckedRegions:
        """Read the image of a row.

        Raises: RowError naming file, row, byte offset and image, for a truncated row, an array whose length does not
        match the number of boxes, features of another width or type, and values out of range.
        """
        layout, feature_type, width = self._shape
        line = self._bytes(row)
        raw = _read_row(self.place(row), line, layout=layout, corpus=self.corpus, feature_type=feature_type)
        if raw.features.shape[1] != width:
            raise RowError(
                raw.place,
                f"features are {raw.features.shape[1]} wide, those of the images before {width}; "
                "one file holds the features of one extractor",
            )
        reading = checked(raw, labels=labels)
        sample = raw.features.ravel()[:_NUMBERS_COMPARED].tobytes()
        found = () if self._declared_type else possible_types(sample, least_numbers=_LEAST_NUMBERS)
        if len(found) == 1 and found[0] != feature_type:
            raise RowError(
                raw.place,
                f"features are {found[0]}, those of the images before {feature_type}; a file holds numbers of one type"
                f", or, if that is mistaken, is named as {self.path}#{feature_type}",
            )
        return reading

    def place(self, row: RegionRow) -> RowAt:
        """Return the position of a row, for messages."""
        return RowAt(self.path, row.number, row.offset, row.image_id)

    def digest(self, row: RegionRow) -> bytes:
        """Return the sha256 of a row without its line end."""
        return hashlib.sha256(self._bytes(row).rstrip(b"\r\n")).digest()

    def _bytes(self, row: RegionRow) -> bytes:
        return self._reader.read(row.offset, row.length)

    @cached_property
    def _reader(self) -> ForwardReader:
        return ForwardReader(self.path, what=_WHAT)

    @cached_property
    def _shape(self) -> _Shape:
        """Layout and width of the first complete row, and the type of the features in most rows."""
        fault: RowError | None = None
        broken = Faults("skip")
        layout: TsvColumns | None = None
        features: list[np.ndarray] = []
        for number, offset, line in islice(self._lines(broken), _ROWS_TO_TRY):
            place = RowAt(self.path, number, offset)
            try:
                here = layout or _layout_of(place, line)
                features.append(_read_row(place, line, layout=here, corpus=self.corpus, feature_type="u1").features)
                layout = here
            except RowError as error:
                fault = fault or error
        if layout is not None:
            return self._shape_of(layout, features)
        if fault is not None:
            raise fault
        raise InputError(
            f"{self.path} {broken.skipped[0].reason if broken.skipped else 'is empty'}; it should be {_WHAT}"
        )

    def _shape_of(self, layout: TsvColumns, features: list[np.ndarray]) -> _Shape:
        """features: raw features of the first rows, uint8 [N, bytes of a region] each."""
        num_bytes = features[0].shape[1]
        rows = (row.tobytes() for row in features if row.shape[1] == num_bytes)
        kinds = (self._declared_type,) if self._declared_type else types_of_rows(rows)
        if len(kinds) > 1:
            ways = [f"{num_bytes // np.dtype(kind).itemsize} numbers of {kind}" for kind in kinds]
            raise InputError(
                f"{self.path}: the features of a region, {num_bytes} bytes, may be {' or '.join(ways)}; "
                f"choose one: {' or '.join(f'{self.path}#{kind}' for kind in kinds)}"
            )
        feature_type = kinds[0] if kinds else "float32"  # where no row is valid, `read` raises
        return _Shape(layout, feature_type, num_bytes // np.dtype(feature_type).itemsize)

    def _lines(self, faults: Faults) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, offset and bytes of each row, line end included.

        A truncated stream is a fault of the row at which it ends.
        """
        number, offset = 1, 0
        with open_stream(self.path, what=_WHAT) as file:
            while True:
                place = RowAt(self.path, number, offset)
                try:
                    line = file.readline(_LONGEST_ROW)
                except DAMAGE as error:
                    faults.add(RowError(place, f"cannot be read from here on ({describe(error)})"))
                    return
                if len(line) == _LONGEST_ROW:
                    raise InputError(f"{place}: has more than {_LONGEST_ROW} bytes; the file should be {_WHAT}")
                if not line:
                    return
                yield number, offset, line
                number, offset = number + 1, offset + len(line)

    def _image_id(self, place: RowAt, line: bytes, layout: TsvColumns) -> str:
        _check_columns(place, line, layout, self.corpus)
        if not line.endswith(b"\n"):
            # Only the last row has no line end: it is complete, or truncated, perhaps within its last column.
            kind = self._shape.feature_type
            return _read_row(place, line, layout=layout, corpus=self.corpus, feature_type=kind).place.image_id
        return image_id_of_row(place, line[: line.index(b"\t")], corpus=self.corpus)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_reader"}


def _read_row(place: RowAt, line: bytes, *, layout: TsvColumns, corpus: Corpus, feature_type: str) -> RawRegions:
    _check_columns(place, line, layout, corpus)
    row = dict(zip(layout.columns, _columns(line), strict=True))
    place = place._replace(image_id=image_id_of_row(place, row["img_id"], corpus=corpus))
    count = _whole_number(place, "num_boxes", row["num_boxes"])
    if count <= 0:
        raise RowError(place, f"num_boxes is {count}; an image needs at least one region")
    boxes = _array(place, "boxes", row["boxes"], dtype="<f4", count=count, width=4)
    labels = {
        field: _array(place, name, row[name], dtype=dtype, count=count, width=1)
        for field, name, dtype in _LABEL_COLUMNS
        if layout.has_labels
    }
    return RawRegions(
        place=place,
        height=_whole_number(place, "img_h", row["img_h"]),
        width=_whole_number(place, "img_w", row["img_w"]),
        boxes=boxes.reshape(count, 4),
        features=_array(place, "features", row["features"], dtype=feature_type, count=count).reshape(count, -1),
        **labels,
    )


_LABEL_COLUMNS = (
    ("object_ids", "objects_id", "<i8"),
    ("object_scores", "objects_conf", "<f4"),
    ("attribute_ids", "attrs_id", "<i8"),
    ("attribute_scores", "attrs_conf", "<f4"),
)
"""Field of RawRegions, column, type."""


def _layout_of(place: RowAt, line: bytes) -> TsvColumns:
    count = _num_tabs(line) + 1
    if count not in LAYOUTS:
        known = ", ".join(f"{number} ({layout.name})" for number, layout in LAYOUTS.items())
        raise RowError(place, f"has {count} columns instead of {known}; the row is cut off or of another layout")
    return LAYOUTS[count]


def _num_tabs(line: bytes) -> int:
    """Return line.count(b"\t") in a fifth of its time under the interpreter lock: most of a row is one column."""
    count = 0
    place = line.find(b"\t")
    while place >= 0:
        count, place = count + 1, line.find(b"\t", place + 1)
    return count


def _columns(line: bytes) -> list[bytes]:
    """Return line.rstrip(b"\\r\\n").split(b"\\t"), for the same reason."""
    columns, start = [], 0
    while (end := line.find(b"\t", start)) >= 0:
        columns.append(line[start:end])
        start = end + 1
    last = len(line)
    while last > start and line[last - 1] in b"\r\n":
        last -= 1
    return [*columns, line[start:last]]


def _check_columns(place: RowAt, line: bytes, layout: TsvColumns, corpus: Corpus) -> None:
    count, wanted = _num_tabs(line) + 1, len(layout.columns)
    if count == wanted:
        return
    if count > 1:
        # The first column is complete nevertheless.
        with suppress(RowError):
            place = place._replace(image_id=image_id_of_row(place, line[: line.index(b"\t")], corpus=corpus))
    raise RowError(place, f"has {count} columns instead of {wanted}; the row is cut off or of another layout")


def _whole_number(place: RowAt, name: str, column: bytes) -> int:
    found = _WHOLE.fullmatch(column)
    if found is None:
        raise RowError(place, f"{name} should be a whole number, but is {column[:40].decode('ascii', 'replace')!r}")
    return int(found[1])


def _array(place: RowAt, name: str, column: bytes, *, dtype: str, count: int, width: int | None = None) -> np.ndarray:
    """Return the numbers of a base64 column: `count` x `width`, or any multiple of `count` where width is None."""
    try:
        data = pybase64.b64decode(_padded(column), validate=True)
    except binascii.Error as error:
        raise RowError(place, f"column {name} is broken base64 ({error}); the row is cut off or damaged") from None
    size = np.dtype(dtype).itemsize
    row_bytes = (len(data) // count // size if width is None else width) * size
    if not row_bytes or len(data) != row_bytes * count:
        wanted = f"{row_bytes * count} bytes" if width else f"a multiple of {count * size} bytes"
        raise RowError(place, f"column {name} holds {len(data)} bytes instead of {wanted} for {count} boxes")
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))


def _padded(column: bytes) -> bytes:
    """Return a column with valid base64: without Python's b'', which some writers added, and with missing padding."""
    if column[:2] in (b"b'", b'b"') and column[-1:] == column[1:2]:
        # Some Python 3 extractors wrote str(bytes).
        column = column[2:-1]
    missing = -len(column) % 4
    # The length determines the padding; a single extra character is damage that padding cannot fix.
    return column + b"=" * missing if missing < 3 else column
