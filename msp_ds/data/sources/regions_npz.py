"""Region features as plain numpy archives: one .npz or a folder of them, every image with the same number of regions.

Keys, N images, R regions, F feature width: image_id [N] (numbers or text), height [N], width [N], boxes [N, R, 4] in
pixels, objects_id [N, R] with -1 for no label, objects_conf [N, R], attrs_id and attrs_conf alike, features [N, R, F].
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.data.array_files import load_arrays
from msp_ds.data.identity import Corpus, canonical_image_id
from msp_ds.data.sources.region_checks import LabelCounts, RawRegions, Reading, RegionRow, checked
from msp_ds.errors import InputError

KEYS = {
    "image_id": (1, "iuU"),
    "height": (1, "iu"),
    "width": (1, "iu"),
    "boxes": (3, "fiu"),
    "objects_id": (2, "iu"),
    "objects_conf": (2, "f"),
    "attrs_id": (2, "iu"),
    "attrs_conf": (2, "f"),
    "features": (3, "f"),
}
"""Key -> number of axes and numpy's letters for the kinds of number that it may hold."""

_WHAT = f"an .npz of region features with {', '.join(KEYS)}"


def list_archives(path: Path) -> list[Path]:
    """The archives that `path` stands for: itself, or the .npz files of a folder in the order of their names.

    Raises: InputError when there are none.
    """
    archives = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not archives:
        raise InputError(f"{path} is a folder without .npz files; it should hold region features")
    return archives


class NpzRegions:
    """An archive of regions, held in memory from the first image that is read to the last."""

    def __init__(self, path: Path, corpus: Corpus) -> None:
        self.path = path
        self.corpus = corpus

    def rows(self) -> Iterator[RegionRow]:
        """Where each image stands, numbers from 0; the features stay on the disk.

        Raises: InputError naming file and row when image_id is missing, misshapen or holds no ids.
        """
        image_ids = load_arrays(self.path, ["image_id"], what=_WHAT)["image_id"]
        if image_ids.ndim != 1 or not len(image_ids):
            raise InputError(f"{self.path}: image_id has shape {image_ids.shape}; it should list the images")
        share = self.path.stat().st_size // len(image_ids)
        for number, raw in enumerate(image_ids.tolist()):
            image_id = canonical_image_id(raw, corpus=self.corpus, where=f"{self.path} row {number}")
            yield RegionRow(image_id, number, 0, share)

    def read(self, row: RegionRow, labels: LabelCounts) -> Reading:
        """The image in a row.

        Raises: InputError naming file, row and image: for a missing or misshapen array and what `checked` refuses.
        """
        image = {name: array[row.number] for name, array in self._arrays.items()}
        if row.number == len(self._arrays["image_id"]) - 1:
            del self._arrays
        raw = RawRegions(
            where=f"{self.path} row {row.number}, image {row.image_id}",
            source=f"{self.path.name} row {row.number}",
            image_id=row.image_id,
            height=int(image["height"]),
            width=int(image["width"]),
            boxes=image["boxes"],
            object_ids=image["objects_id"],
            object_scores=image["objects_conf"],
            attribute_ids=image["attrs_id"],
            attribute_scores=image["attrs_conf"],
            features=image["features"],
        )
        return checked(raw, labels=labels)

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = load_arrays(self.path, list(KEYS), what=_WHAT)
        _check_shapes(arrays, self.path)
        return arrays

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}


def _check_shapes(arrays: dict[str, np.ndarray], path: Path) -> None:
    images_and_regions = arrays["objects_id"].shape
    for name, (axes, kinds) in KEYS.items():
        array = arrays[name]
        if array.ndim != axes or array.dtype.kind not in kinds:
            raise InputError(
                f"{path}: {name} is {array.dtype} with {array.ndim} axes; it should have {axes}, of numbers"
            )
        wanted = images_and_regions[: min(axes, 2)]
        if array.shape[: len(wanted)] != wanted:
            raise InputError(
                f"{path}: {name} has shape {array.shape}, which does not fit objects_id {images_and_regions}"
            )
    if 0 in arrays["features"].shape or arrays["boxes"].shape[2] != 4:
        raise InputError(f"{path}: holds no features, or boxes of other than 4 numbers")
