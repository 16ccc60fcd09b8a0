"""Read region features from numpy archives: an .npz of one image or of many, or a folder of them.

Keys, N images, R regions, F feature width: image_id [N] (numbers or text), height [N], width [N], boxes [N, R, 4] in
pixels, features [N, R, F], and, where there are labels, objects_id [N, R] with -1 for no label and objects_conf
[N, R], attrs_id and attrs_conf likewise. num_boxes [N] is the number of an image's regions, the rest of R is padding;
without it R regions are used. An archive of one image has no axis N; without image_id its file name is the id. detector
is the record of what computed the features, in JSON.
"""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.config import from_json
from msp_ds.data.format.faults import Faults, RowAt, RowError, image_id_of_row
from msp_ds.data.format.image_ids import Corpus
from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts, RawRegions, RegionRow, checked
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.storage.array_files import list_arrays, load_arrays
from msp_ds.storage.small_files import parse_json

KEYS = {
    "image_id": (1, "iuU"),
    "height": (1, "iuf"),
    "width": (1, "iuf"),
    "num_boxes": (1, "iuf"),
    "boxes": (3, "fiu"),
    "objects_id": (2, "iu"),
    "objects_conf": (2, "f"),
    "attrs_id": (2, "iu"),
    "attrs_conf": (2, "f"),
    "features": (3, "f"),
}
"""Key -> number of axes with N, and numpy's letters for the kinds of number that it may hold."""

_NEEDED = ("height", "width", "boxes", "features")
_LABELS = (("objects_id", "objects_conf"), ("attrs_id", "attrs_conf"))
"""Pairs of arrays that are both present or both absent."""

_WHAT = f"an .npz of region features with {', '.join(KEYS)}"


def list_archives(path: Path) -> list[Path]:
    """Return `path` itself or the .npz files of a folder, by name.

    Raises: InputError when there are none, and for a folder of which `msp-ds regions` has not written all.
    """
    archives = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if (path / "plan.json").is_file() and not (path / "regions.json").is_file():
        raise InputError(f"{path} is not finished, regions.json is missing; give its msp-ds regions command again")
    if not archives:
        raise InputError(f"{path} is a folder without .npz files; it should hold region features")
    return archives


class NpzRegions:
    """An archive of regions, in memory from the first image that is read to the last."""

    def __init__(self, path: Path, corpus: Corpus) -> None:
        self.path = path
        self.corpus = corpus

    @property
    def has_labels(self) -> bool:
        """Whether the archive has objects_id. Raises: InputError for a file that is not an archive."""
        return "objects_id" in self._names

    def has_some(self, ids: str) -> bool:
        """Return whether the array `ids` names a label of some region. Raises: InputError for a damaged archive."""
        return ids in self._names and bool((self._load([ids])[ids] >= 0).any())

    @cached_property
    def detector(self) -> DetectorRecord | None:
        """The record in the archive, None without one. Raises: InputError for a broken one."""
        if "detector" not in self._names:
            return None
        text = str(load_arrays(self.path, ["detector"], what=_WHAT)["detector"])
        try:
            return from_json(DetectorRecord, parse_json(text), where="detector")
        except ValueError as error:
            fix = "write the file again with: msp-ds regions"
            raise InputError(f"{self.path} holds a broken record of its detector ({error}); {fix}") from None

    @property
    def feature_type(self) -> str:
        """Empty: the archive states the type of each array."""
        return ""

    @property
    def num_bytes(self) -> int | None:
        """The size of the archive."""
        return self.path.stat().st_size

    def rows(self, faults: Faults | None = None) -> Iterator[RegionRow]:
        """Yield the row of each image, numbered from 0, without reading features.

        A damaged archive is one fault, an image without an id one of its row.

        Raises: InputError for a fault that `faults` does not accept.
        """
        faults = faults or Faults()
        try:
            raw_ids = self._raw_ids()
            bytes_per_image = self.path.stat().st_size // len(raw_ids)
        except RowError as error:
            faults.add(error)
            return
        for number, raw_id in enumerate(raw_ids):
            place = RowAt(self.path, number)
            try:
                image_id = image_id_of_row(place, raw_id, corpus=self.corpus)
            except RowError as error:
                faults.add(error)
            else:
                yield RegionRow(image_id, number, 0, bytes_per_image)

    def read(self, row: RegionRow, labels: LabelCounts) -> CheckedRegions:
        """Read the image of a row.

        Raises: RowError naming file, row and image, for a missing or misshapen array and for values out of range.
        """
        place = self.place(row)
        try:
            image = self._image(row.number)
        except RowError as error:
            raise RowError(place, error.reason) from None
        count = _whole_number(place, "num_boxes", image.get("num_boxes", len(image["boxes"])))
        if not 0 < count <= len(image["boxes"]):
            raise RowError(place, f"num_boxes is {count}; it should be 1 to {len(image['boxes'])}")
        raw = RawRegions(
            place=place,
            height=_whole_number(place, "height", image["height"]),
            width=_whole_number(place, "width", image["width"]),
            boxes=image["boxes"][:count],
            features=image["features"][:count],
            object_ids=_first(image, "objects_id", count),
            object_scores=_first(image, "objects_conf", count),
            attribute_ids=_first(image, "attrs_id", count),
            attribute_scores=_first(image, "attrs_conf", count),
        )
        return checked(raw, labels=labels)

    def place(self, row: RegionRow) -> RowAt:
        """Return the position of a row, for messages."""
        return RowAt(self.path, row.number, image_id=row.image_id)

    def digest(self, row: RegionRow) -> bytes:
        """Return the sha256 of an image's arrays."""
        digest = hashlib.sha256()
        for name, array in sorted(self._image(row.number).items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
        return digest.digest()

    def _image(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays of one image without the axis N; after the last image the archive's arrays are freed."""
        arrays = self._arrays
        if number == len(arrays["height"]) - 1:
            del self._arrays
        return {name: array[number] for name, array in arrays.items()}

    def _raw_ids(self) -> list[Any]:
        """Return the images' ids as written. Raises: RowError when image_id is misshapen or unreadable."""
        place = RowAt(self.path)
        if "image_id" not in self._names:
            if self._load(["height"])["height"].ndim:
                raise RowError(place, f"lacks the array image_id; it should be {_WHAT}")
            return [self.path.stem]
        ids = self._load(["image_id"])["image_id"]
        if ids.ndim > 1 or not ids.size or ids.dtype.kind not in KEYS["image_id"][1]:
            raise RowError(place, f"image_id is {ids.dtype} of shape {ids.shape}; it should list the images")
        raw_ids: list[Any] = ids.reshape(-1).tolist()
        return raw_ids

    def _load(self, names: list[str]) -> dict[str, np.ndarray]:
        try:
            return load_arrays(self.path, names, what=_WHAT)
        except InputError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: InputError) -> RowError:
        return RowError(RowAt(self.path), str(error).removeprefix(f"{self.path} "))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        try:
            return list_arrays(self.path, what=_WHAT)
        except InputError as error:
            raise self._damaged(error) from None

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """The needed arrays with the axis N. Raises: RowError when their shapes do not match."""
        for pair in _LABELS:
            if len({name in self._names for name in pair}) > 1:
                raise RowError(RowAt(self.path), f"has one of {' and '.join(pair)} without the other")
        there = [name for name in KEYS if name in _NEEDED or name in self._names]
        arrays = self._load(there)
        if not arrays["height"].ndim:
            arrays = {name: array[None] for name, array in arrays.items()}
        _check_shapes(arrays, self.path)
        return arrays

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}


def _whole_number(place: RowAt, name: str, value: Any) -> int:
    if not float(value).is_integer():
        raise RowError(place, f"{name} should be a whole number, but is {float(value)}")
    return int(value)


def _first(image: dict[str, np.ndarray], name: str, count: int) -> np.ndarray | None:
    return image[name][:count] if name in image else None


def _check_shapes(arrays: dict[str, np.ndarray], path: Path) -> None:
    place = RowAt(path)
    images_and_regions = arrays["boxes"].shape[:2]
    for name, array in arrays.items():
        axes, kinds = KEYS[name]
        if array.ndim != axes or array.dtype.kind not in kinds:
            raise RowError(place, f"{name} is {array.dtype} with {array.ndim} axes; it should have {axes}, of numbers")
        wanted = images_and_regions[: min(axes, 2)]
        if array.shape[: len(wanted)] != wanted:
            raise RowError(place, f"{name} has shape {array.shape}, which does not match boxes {arrays['boxes'].shape}")
    if 0 in arrays["features"].shape or arrays["boxes"].shape[2] != 4:
        raise RowError(place, "holds no features, or boxes of other than 4 numbers")
