"""The files that `msp-ds regions` writes. N pictures of a part, R regions, F feature width.

- `plan.json`: the pictures of each part, the detector and the options, fixed before any work;
- `000000.npz`: the regions of a part, for `msp-ds shard --regions`;
- `000000.json`: the pictures that are not in it; it is written after it, so a part that has it is whole;
- `objects_vocab.txt`, `attributes_vocab.txt`: the detector's labels; `regions.json`, the last of all: what there is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.config import from_json, to_json
from msp_ds.data.format.set_tables import npz_bytes
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import Detector
from msp_ds.regions.region_pool import PictureRegions
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.storage.small_files import parse_json, read_small_bytes, reason

PICTURES_PER_PART = 500
PLAN, INDEX = "plan.json", "regions.json"
_LARGEST_JSON = 1 << 31
"""Bytes; a million pictures take 200 MB."""


@dataclass(frozen=True, kw_only=True)
class PlannedPicture:
    """A picture at the time of the plan."""

    path: str
    image_id: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class RegionPlan:
    """All that decides the bytes of the parts."""

    detector: DetectorRecord
    options: dict[str, str]
    """Flag -> value, beyond what the detector's record holds."""
    parts: tuple[tuple[PlannedPicture, ...], ...] = ()

    def extended(self, pictures: Sequence[PlannedPicture]) -> RegionPlan:
        """Return the plan with further parts for the new ones of all `pictures`."""
        known = {picture.path for part in self.parts for picture in part}
        new = [picture for picture in pictures if picture.path not in known]
        starts = range(0, len(new), PICTURES_PER_PART)
        added = tuple(tuple(new[start : start + PICTURES_PER_PART]) for start in starts)
        return dataclasses.replace(self, parts=self.parts + added)


@dataclass(frozen=True, kw_only=True)
class WrittenPart:
    """A part that is whole."""

    name: str
    """Of the .npz, which is missing where all pictures are left out."""
    bytes: int
    sha256: str
    images: int
    regions: int
    left_out: dict[str, str]
    """Path of a picture without regions -> reason."""


class RegionFolder:
    """The folder that is written. Each file is written aside and renamed."""

    def __init__(self, path: Path, *, writer: str = "") -> None:
        """writer: differs between processes that write side by side."""
        self.path = path
        self._writer = writer

    def plan(self, now: RegionPlan, pictures: Sequence[PlannedPicture], *, is_alone: bool) -> RegionPlan:
        """Return the plan of this folder for all `pictures`: the one that is there, extended, or a new one.

        now: without parts. is_alone: a plan without a whole part may be made again, since nobody else works by it.

        Raises: InputError where the plan has another detector or option, or a picture that changed or is gone.
        """
        before = self._read(PLAN, RegionPlan)
        whole = self.whole_parts(before) if before else []
        if before and (whole or not is_alone):
            # A picture without regions may be deleted.
            left_out = {path for part in whole for path in part.left_out}
            there = {picture.path: picture for part in before.parts for picture in part if picture.path in left_out}
            _require_same(before, now, there | {picture.path: picture for picture in pictures}, self.path / PLAN)
            now = dataclasses.replace(now, parts=before.parts)  # with the versions of this time
        found = now.extended(pictures)
        ours = {f"{number:06d}.npz" for number in range(len(found.parts) if before else 0)}
        if strangers := [path for path in self.path.glob("*.npz") if path.name not in ours]:
            # `msp-ds shard` would read it with the parts.
            raise InputError(f"{min(strangers)} is no part of {PLAN}; delete it, or name another --out")
        if found != before:
            (self.path / INDEX).unlink(missing_ok=True)
            self._write_json(PLAN, found)
        return found

    def whole_parts(self, plan: RegionPlan) -> list[WrittenPart]:
        """Return the parts of a plan that are whole."""
        return [part for number in range(len(plan.parts)) if (part := self.written(number))]

    def written(self, number: int) -> WrittenPart | None:
        """Return a part if it is whole."""
        part = self._read(f"{number:06d}.json", WrittenPart)
        path = self.path / f"{number:06d}.npz"
        return part if part and (not part.images or (path.is_file() and path.stat().st_size == part.bytes)) else None

    def write_part(self, number: int, arrays: dict[str, np.ndarray], *, left_out: dict[str, str]) -> None:
        """Write a part; `arrays` is empty where all its pictures are left out."""
        name, data = f"{number:06d}.npz", npz_bytes(arrays) if arrays else memoryview(b"")
        if arrays:
            self._write(name, data)
        counts = arrays.get("num_boxes", np.zeros(0, int))
        sizes = {"bytes": len(data), "images": len(counts), "regions": int(counts.sum())}
        part = WrittenPart(name=name, sha256=hashlib.sha256(data).hexdigest(), left_out=left_out, **sizes)
        self._write_json(f"{number:06d}.json", part)

    def finish(self, plan: RegionPlan, detector: Detector) -> None:
        """Write the label lists, and the index of all parts, which are whole."""
        parts = self.whole_parts(plan)
        labels = {"objects_vocab.txt": detector.objects, "attributes_vocab.txt": detector.attributes}
        labels = {name: lines for name, lines in labels.items() if lines}
        for name, lines in labels.items():
            self._write(name, "".join(f"{line}\n" for line in lines).encode())
        index = {
            "detector": plan.detector,
            "options": plan.options,
            "feature_width": detector.feature_width,
            "labels": list(labels),
            "images": sum(part.images for part in parts),
            "regions": sum(part.regions for part in parts),
            "left_out": {path: why for part in parts for path, why in part.left_out.items()},
            "parts": [{**to_json(part), "left_out": len(part.left_out)} for part in parts],
        }
        self._write_json(INDEX, index)

    def _read(self, name: str, kind: type[Any]) -> Any:
        """Return the value in a JSON file of this folder; None where there is none."""
        path = self.path / name
        try:
            return from_json(kind, parse_json(read_small_bytes(path, most=_LARGEST_JSON)), where=str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({reason(error)}); name another --out") from None

    def _write_json(self, name: str, value: Any) -> None:
        # ASCII: names of files need not be valid Unicode.
        self._write(name, (json.dumps(to_json(value), indent=1) + "\n").encode())

    def _write(self, name: str, data: bytes | memoryview) -> None:
        # The same name each time: a process that goes on for a killed one leaves nothing behind.
        write_atomically(self.path / name, data, temporary=self.path / f".{name}.tmp{self._writer}")


def part_arrays(found: dict[str, PictureRegions], *, record: DetectorRecord, num_regions: int) -> dict[str, np.ndarray]:
    """Return the arrays of a part, filled up to `num_regions` with zeros, and -1 for labels; {} without pictures.

    found: image id -> regions; user's own boxes may be more than `num_regions`.
    """
    if not found:
        return {}
    regions = [one.regions for one in found.values()]
    counts = np.array([len(one.boxes) for one in regions], np.int32)
    num_regions = max(num_regions, int(counts.max()))

    def filled(name: str, dtype: type, fill: int = 0) -> np.ndarray:
        rows = [getattr(one, name) for one in regions]
        values = np.full((len(rows), num_regions, *rows[0].shape[1:]), fill, dtype)
        for value, row in zip(values, rows, strict=True):
            value[: len(row)] = row
        return values

    arrays = {
        "image_id": np.array(list(found)),
        "height": np.array([one.height for one in found.values()], np.int32),
        "width": np.array([one.width for one in found.values()], np.int32),
        "num_boxes": counts,
        "boxes": filled("boxes", np.float32),
    }
    keys = ((record.objects_sha256, "object", "objects"), (record.attributes_sha256, "attribute", "attrs"))
    for labels, kind, key in keys:
        if labels:
            arrays[f"{key}_id"] = filled(f"{kind}_ids", np.int32, IGNORE)
            arrays[f"{key}_conf"] = filled(f"{kind}_scores", np.float32)
    return arrays | {"features": filled("features", np.float16), "detector": np.array(record.to_text())}


def _require_same(before: RegionPlan, now: RegionPlan, pictures: dict[str, PlannedPicture], path: Path) -> None:
    """Raise InputError unless detector, options and all planned pictures are as they were."""
    elsewhere = "name another --out"
    if before.detector.identity != now.detector.identity:
        one, other = before.detector.describe(), now.detector.describe()
        raise InputError(f"{path.parent} holds regions of {one}, not of {other}; {elsewhere}")
    for flag, value in now.options.items():
        if value != before.options.get(flag):
            raise InputError(
                f"{path.parent} was begun with {flag} {before.options.get(flag)}, not {value}; {elsewhere}"
            )
    for old in (picture for part in before.parts for picture in part):
        new = pictures.get(old.path)
        if new is None:
            raise InputError(f"{old.path} is in {path}, but not found now; name it too, or {elsewhere}")
        if new.image_id != old.image_id:
            names = f"{old.image_id} in {path}, now {new.image_id}"
            raise InputError(f"{old.path} is {names}; give the --corpus of before, or {elsewhere}")
        if new != old:
            raise InputError(f"{old.path} has changed since {path} was written; put it back, or {elsewhere}")
