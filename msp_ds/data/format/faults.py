"""Rows that cannot be used: the first one ends the work, or all of them are left out and listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from msp_ds.errors import InputError

OnError = Literal["fail", "skip"]
"""What an unusable row does: end the work, or be left out and listed."""


class RowAt(NamedTuple):
    """Where a row stands, for messages."""

    path: Path
    number: int | None = None
    """Of the row, as messages count it; None where the whole file is meant."""
    offset: int | None = None
    """Bytes before it, uncompressed; None where the format has no use for it."""
    image_id: str = ""
    """Canonical; empty while it is not known."""

    @property
    def name(self) -> str:
        """The file's, without its folder; bytes of it that are no text, as file systems allow them, are spelled out."""
        return self.path.name.encode("utf-8", "backslashreplace").decode()

    def __str__(self) -> str:
        row = "" if self.number is None else f" row {self.number}"
        byte = "" if self.offset is None else f" (byte {self.offset})"
        return f"{self.path}{row}{byte}" + (f", image {self.image_id}" if self.image_id else "")


class RowError(InputError):
    """One row of a file that cannot be used, where the others may."""

    def __init__(self, place: RowAt, reason: str) -> None:
        # Both as arguments of the exception: it travels between processes.
        super().__init__(place, reason)
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class SkippedRow:
    """A row that was left out, as the index of a set lists it."""

    source: str
    """Name of the file, without its folder, so that moved files give the same bytes."""
    row: int
    """As messages count it; 0 where the whole file is meant."""
    offset: int
    """Bytes before it, uncompressed; 0 where the format has no use for it."""
    image_id: str
    """Canonical; empty where it could not be read."""
    reason: str


class Faults:
    """Collects the rows that cannot be used, or stops at the first."""

    def __init__(self, on_error: OnError = "fail") -> None:
        self._on_error = on_error
        self.skipped: list[SkippedRow] = []
        """In the order in which they were found."""
        self.num_repeated = 0
        """Rows that repeated an earlier one byte for byte: dropped, since nothing is lost."""

    def add(self, error: RowError) -> None:
        """Take note of a row that is left out. Raises: InputError for it where none may be."""
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
        """Of the skipped rows, as far as they are known."""
        return frozenset(skipped.image_id for skipped in self.skipped)

    def counts(self) -> dict[str, int]:
        """For the report and the index."""
        return {"rows_skipped": len(self.skipped), "rows_repeated": self.num_repeated}
