"""Region features as plain numpy archives: one .npz or a folder of them, every image with the same number of regions.

Keys, N images, R regions, F feature width: image_id [N] (numbers or text), height [N], width [N], boxes [N, R, 4] in
pixels, objects_id [N, R] with -1 for no label, objects_conf [N, R], attrs_id and attrs_conf alike, features [N, R, F].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from msp_ds.data.array_files import load_arrays
from msp_ds.data.identity import Corpus, canonical_image_id
from msp_ds.data.sources.region_checks import LabelCounts, RawRegions, Reading, checked
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


def read_records(path: Path, *, corpus: Corpus, labels: LabelCounts) -> Iterator[Reading]:
    """The images of one archive, which is held in memory meanwhile.

    Raises: InputError naming file, row (from 0) and image: for a missing or misshapen array and what `checked` refuses.
    """
    arrays = load_arrays(path, list(KEYS), what=_WHAT)
    _check_shapes(arrays, path)
    num_images = len(arrays["image_id"])
    bytes_per_image = path.stat().st_size // num_images
    for row in range(num_images):
        image = {name: array[row] for name, array in arrays.items()}
        where = f"{path} row {row}"
        image_id = canonical_image_id(image["image_id"].item(), corpus=corpus, where=where)
        raw = RawRegions(
            where=f"{where}, image {image_id}",
            source=f"{path.name} row {row}",
            image_id=image_id,
            height=int(image["height"]),
            width=int(image["width"]),
            boxes=image["boxes"],
            object_ids=image["objects_id"],
            object_scores=image["objects_conf"],
            attribute_ids=image["attrs_id"],
            attribute_scores=image["attrs_conf"],
            features=image["features"],
        )
        yield checked(raw, labels=labels, num_bytes=bytes_per_image)


def read_ids(path: Path, *, corpus: Corpus) -> Iterator[tuple[str, int]]:
    """The canonical image ids of one archive and about the bytes of each image; the features stay on the disk.

    Raises: InputError as `read_records`, for image_id.
    """
    image_ids = load_arrays(path, ["image_id"], what=_WHAT)["image_id"]
    if image_ids.ndim != 1 or not len(image_ids):
        raise InputError(f"{path}: image_id has shape {image_ids.shape}; it should list the images")
    bytes_per_image = path.stat().st_size // len(image_ids)
    for row, raw in enumerate(image_ids.tolist()):
        yield canonical_image_id(raw, corpus=corpus, where=f"{path} row {row}"), bytes_per_image


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
