"""metrics.jsonl: the scalars of a stage, one JSON object per report and line."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from msp_ds.config import to_json
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.storage.small_files import parse_json

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"  # name of the file in the stage's folder

Report = Literal["training", "validation"]  # means since the report before, or means over the held-out pairs


class MetricsFile:
    """Appends reports, each in one write, so that every earlier line is whole when the run is killed."""

    def __init__(self, folder: Path, *, start: int, facts: Mapping[str, Any]) -> None:
        """Open the file of a stage that continues after step `start`; reports of later steps are removed.

        facts: the first keys of every line, such as the stage's name.
        """
        self.path = folder / METRICS_FILE
        self._facts = dict(facts)
        self._is_torn = self._has_warned = False
        self._descriptor: int | None = None
        try:
            self._descriptor = self._open(start)
        except OSError as error:
            self._warn(error)

    def _open(self, start: int) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.is_file() else b""
        kept = "".join(f"{json.dumps(row)}\n" for row in read_metrics(self.path) if row["step"] <= start).encode()
        if kept != before:
            write_atomically(self.path, kept)
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, step: int, values: Mapping[str, float], *, report: Report, epoch: float) -> None:
        """Write a report at an optimiser step, with null for NaN. A full disk only causes a warning."""
        if self._descriptor is None:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = {**self._facts, "report": report, "step": step, "epoch": round(epoch, 4), "time": now, **values}
        line = f"{json.dumps(to_json(row))}\n".encode()
        try:
            # A line that a full disk has torn is ended first; readers skip it.
            whole = os.write(self._descriptor, b"\n" + line if self._is_torn else line)
            self._is_torn = whole < len(line)
        except OSError as error:
            self._warn(error)
            self._is_torn = True

    def flush(self) -> None:
        """Sync the file to the disk."""
        try:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            with suppress(OSError):  # some network disks report only here that they are full
                os.close(self._descriptor)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            log.warning("%s cannot be written (%s); training goes on", self.path, error.strerror)
        self._has_warned = True


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the reports in a file, oldest first, without torn lines; none where the file is missing."""
    if not path.is_file():
        return []
    rows = (_row(line) for line in path.read_bytes().splitlines())
    return [row for row in rows if row]


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError:  # invalid JSON or invalid UTF-8
        return {}
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else {}
