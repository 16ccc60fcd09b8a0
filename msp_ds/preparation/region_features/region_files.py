"""Open region features of any supported format, by the ending of the file, and list all their rows.

A file is read in two steps, which may happen in different processes: `rows` locates each image without decoding it, and
`read` decodes one image.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from msp_ds.data.format.faults import Faults, RowAt, RowError
from msp_ds.data.format.image_ids import Corpus, split_corpus
from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts, RegionRow
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.feature_types import FEATURE_TYPES, FeatureType
from msp_ds.preparation.region_features.region_npz import NpzRegions, list_archives
from msp_ds.preparation.region_features.region_tsv import TsvRegions


class RegionFile(Protocol):
    """One file of region features. It can be copied and pickled, without its open files."""

    path: Path
    corpus: Corpus
    """The corpus of plain numbers."""

    @property
    def has_labels(self) -> bool:
        """Whether it has the detector's labels; without them every id is IGNORE and every score 0."""

    @property
    def detector(self) -> DetectorRecord | None:
        """The record of what computed its features; None where it is unknown."""

    def has_some(self, ids: str) -> bool:
        """Return whether some region has a label of `objects_id` or `attrs_id`, as far as no row must be read."""

    @property
    def feature_type(self) -> str:
        """The type of its features where it was inferred or given by the user; empty where the file states it."""

    @property
    def num_bytes(self) -> int | None:
        """Approximate sum of the lengths of its rows; None where it is unknown before reading."""

    def rows(self, faults: Faults | None = None) -> Iterator[RegionRow]:
        """Yield the row of each image in the order of the file; unusable rows are added to `faults`."""

    def read(self, row: RegionRow, labels: LabelCounts) -> CheckedRegions:
        """Read the image of a row; cheapest in the order of the file. Raises: RowError, for `Faults.add`."""

    def place(self, row: RegionRow) -> RowAt:
        """Return the position of a row, for messages."""

    def digest(self, row: RegionRow) -> bytes:
        """Return a hash of the content of a row; cheapest in the order of the file."""


# Bottom-up attention's own files end in .tsv.0, .tsv.1 ...
_TSV, _NPZ = re.compile(r"\.tsv(\.\d+)?(\.gz|\.bz2|\.zst)?$"), re.compile(r"\.npz$")


def list_region_files(paths: tuple[str, ...]) -> list[RegionFile]:
    """Return the files of a recipe's `regions`: .tsv, .npz or folders of .npz.

    A prefix `vg:` marks Visual Genome's numbers, a suffix `#float16` gives the type of the features of a .tsv.

    Raises: InputError for a missing path, one of another ending, or one named twice.
    """
    found: list[RegionFile] = []
    seen: dict[tuple[int, int], Path] = {}
    for written in paths:
        corpus, plain = split_corpus(written)
        path, feature_type = _split_type(plain)
        if not os.path.exists(path):
            raise InputError(f"{path} is missing; it should hold region features (.tsv, .npz or a folder of .npz)")
        for member in list_archives(path) if path.is_dir() else [path]:
            status = member.stat()
            if seen.setdefault((status.st_dev, status.st_ino), member) is not member:
                raise InputError(f"{member} is named twice among the region features")
            found.append(_region_file(member, corpus, feature_type))
    return found


def scan_rows(
    files: Sequence[RegionFile], *, faults: Faults, advance: Callable[[int], None] = lambda num_bytes: None
) -> list[list[RegionRow]]:
    """Return the usable rows of each file, each image once. advance: called with each row's bytes.

    A row that repeats an earlier one of its file byte for byte is dropped and counted.

    Raises: InputError for the first unusable row that `faults` does not accept, such as a second row of an image.
    """
    first_seen: dict[str, str] = {}
    found: list[list[RegionRow]] = []
    for file in files:
        rows = []
        for row in file.rows(faults):
            rows.append(row)
            advance(row.length)
        found.append(_new_rows(file, _without_repeats(file, rows, faults), first_seen, faults))
    return found


def scan_bytes(files: Sequence[RegionFile]) -> int | None:
    """Return the approximate total that `scan_rows` advances by; None where it is unknown before reading."""
    sizes = [file.num_bytes for file in files]
    return None if None in sizes else sum(size or 0 for size in sizes)


def read_or_skip(file: RegionFile, row: RegionRow, *, labels: LabelCounts, faults: Faults) -> CheckedRegions | None:
    """Read the image of a row; None for an unusable row that `faults` accepts. Raises: InputError for others."""
    try:
        return file.read(row, labels)
    except RowError as error:
        faults.add(error)
        return None


def files_without_labels(files: Sequence[RegionFile]) -> list[RegionFile]:
    """Return the files without labels; unreadable files are left to `scan_rows`, which reports them."""
    return [file for file in files if not _may_have_labels(file)]


def require_labels(files: Sequence[RegionFile]) -> None:
    """Require labels, from which the texts of the token stage are made. Raises: InputError naming a file without."""
    unlabelled = files_without_labels(files)
    if unlabelled:
        raise InputError(
            f"{unlabelled[0].path} holds regions without labels ({len(unlabelled)} of {len(files)} files do), of which "
            "stage token makes its texts; LXMERT's TSV of 10 columns, VOLTA's of 13 and .npz with objects_id have "
            "them, and the other stages do without"
        )


def may_have_some(file: RegionFile, ids: str) -> bool:
    """Return whether a file has labels of `objects_id` or `attrs_id`; an unreadable one may have them."""
    try:
        return file.has_some(ids)
    except InputError:
        return True


def common_detector(files: Sequence[RegionFile]) -> DetectorRecord | None:
    """Return the record of the detector of all files; None where none names it.

    Raises: InputError for files of different detectors, also where only some name theirs.
    """
    found: dict[str, tuple[Path, DetectorRecord | None]] = {}
    for file in files:
        with suppress(RowError):  # an unreadable file, which `scan_rows` reports
            found.setdefault(file.detector.identity if file.detector else "", (file.path, file.detector))
    names = [f"{path} by {record.describe() if record else 'one not named'}" for path, record in found.values()]
    if len(names) > 1:
        raise InputError(f"regions of different detectors do not mix: {names[0]}, {names[1]}; write a set of each")
    return next(iter(found.values()))[1] if found else None


def _may_have_labels(file: RegionFile) -> bool:
    try:
        return file.has_labels
    except InputError:
        return True


def _split_type(written: str) -> tuple[Path, FeatureType | None]:
    """Return the path and the type of `features.tsv#float16`."""
    path, mark, suffix = written.rpartition("#")
    types = [kind for kind in FEATURE_TYPES if kind == suffix and mark and not Path(written).exists()]
    return (Path(path), types[0]) if types else (Path(written), None)


def _region_file(path: Path, corpus: Corpus, feature_type: FeatureType | None) -> RegionFile:
    if _TSV.search(path.name):
        return TsvRegions(path, corpus, feature_type)
    if _NPZ.search(path.name):
        return NpzRegions(path, corpus)
    raise InputError(
        f"{path} ends neither in .tsv nor in .npz; region features should (TSV may end in .gz, .bz2 or .zst too)"
    )


def _without_repeats(file: RegionFile, rows: list[RegionRow], faults: Faults) -> list[RegionRow]:
    """Return the rows without those that repeat an earlier row of the same image exactly."""
    first: dict[str, RegionRow] = {}
    repeats = {row for row in rows if first.setdefault(row.image_id, row) is not row}
    if not repeats:
        return rows
    # In the order of the file, since a compressed one is read only forwards.
    suspects = sorted(repeats | {first[row.image_id] for row in repeats}, key=lambda row: row.number)
    digests = {row.number: file.digest(row) for row in suspects}
    dropped = {row for row in repeats if digests[row.number] == digests[first[row.image_id].number]}
    faults.num_repeated += len(dropped)
    return [row for row in rows if row not in dropped]


def _new_rows(file: RegionFile, rows: list[RegionRow], first_seen: dict[str, str], faults: Faults) -> list[RegionRow]:
    """Return the rows of new images and add them to `first_seen`, image -> file and row."""
    new = []
    for row in rows:
        place = file.place(row)
        here = str(place._replace(path=Path(file.path.name), image_id=""))
        first = first_seen.setdefault(row.image_id, here)
        if first is here:
            new.append(row)
        else:
            faults.add(RowError(place, f"comes twice, first in {first}; keep one of them"))
    return new
