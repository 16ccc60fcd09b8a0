"""Rows of a source that cannot be used: the first one ends the work, or all are skipped and listed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from msp_ds.data.format.image_ids import Corpus, canonical_image_id
from msp_ds.errors import InputError

OnError = Literal["fail", "skip"]
"""End the work at an unusable row, or skip and list it."""


class RowAt(NamedTuple):
    """The position of a row, for messages."""

    path: Path
    number: int | None = None
    """Number of the row in messages; None where the whole file is meant."""
    offset: int | None = None
    """Bytes before the row, uncompressed; None where the format does not need it."""
    image_id: str = ""
    """Canonical; empty while it is not known."""

    @property
    def name(self) -> str:
        """The file's name without its folder; bytes that are not UTF-8 are escaped."""
        return self.path.name.encode("utf-8", "backslashreplace").decode()

    def __str__(self) -> str:
        row = "" if self.number is None else f" row {self.number}"
        byte = "" if self.offset is None else f" (byte {self.offset})"
        return f"{self.path}{row}{byte}" + (f", image {self.image_id}" if self.image_id else "")


class RowError(InputError):
    """An error of one row of a file, whose other rows may be usable."""

    def __init__(self, place: RowAt, reason: str) -> None:
        # Both are arguments of the exception, so that it can be pickled between processes.
        super().__init__(place, reason)
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def image_id_of_row(place: RowAt, raw: str | int | bytes, *, corpus: Corpus) -> str:
    """Return the canonical id of a row of regions. Raises: RowError that names the way out for own names."""
    written = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    try:
        return canonical_image_id(written, corpus=corpus, where="", own=f"--regions own:{place.path}")
    except InputError as error:
        raise RowError(place, str(error).removeprefix(": ")) from None


@dataclass(frozen=True, kw_only=True)
class SkippedRow:
    """A skipped row in the index of a set."""

    source: str
    """Name of the file without its folder, so that moved files give the same bytes."""
    row: int
    """Number of the row in messages; 0 where the whole file is meant."""
    offset: int
    """Bytes before the row, uncompressed; 0 where the format does not need it."""
    image_id: str
    """Canonical; empty where it could not be read."""
    reason: str


class Faults:
    """Collects the rows that cannot be used, or stops at the first."""

    def __init__(self, on_error: OnError = "fail") -> None:
        self._on_error = on_error
        self.skipped: list[SkippedRow] = []
        self.num_repeated = 0
        """Rows that repeat an earlier one byte for byte, which are dropped."""

    def add(self, error: RowError) -> None:
        """List a row as skipped. Raises: InputError if on_error is `fail`."""
        if self._on_error == "fail":
            raise InputError(f"{error}; leave out and list such rows with --on-error skip") from None
        place = error.place
        self.skipped.append(
            SkippedRow(
                source=place.name,
                row=place.number or 0,
                offset=place.offset or 0,
                image_id=place.image_id,
                reason=error.reason,
            )
        )

    def image_ids(self) -> frozenset[str]:
        """Return the ids of the skipped rows, as far as they are known."""
        return frozenset(skipped.image_id for skipped in self.skipped)

    def counts(self) -> dict[str, int]:
        """Return the counts for the report and the index."""
        return {"rows_skipped": len(self.skipped), "rows_repeated": self.num_repeated}
