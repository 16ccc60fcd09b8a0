"""Converts region features in HDF5 to npz parts that `msp-ds shard --regions OUT` reads.

    python tools/convert/hdf5.py train36.hdf5 --ids train36_imgid2idx.json --out regions

Needs: pip install 'msp-ds[tools]'. Some 400 images a second. Three layouts are known by their datasets (N images,
R regions, B regions of all images, F feature width):

    image_features [N, R, F], image_bb [N, R, 4], spatial_features [N, R, 6]                    36 boxes an image
    image_features [B, F], image_bb [B, 4], spatial_features [B, 6], pos_boxes [N, 2]           10 to 100 boxes
    IMAGE_ID/{features, boxes, img_h, img_w, obj_id, obj_conf, attr_id, attr_conf}              VOLTA's, with labels

The first two do not keep the image's size; it follows from a box in pixels and the same box in fractions, which
spatial_features holds. They need --ids: a JSON of {image id: row} or of a list of ids, row by row. A pickle of such a
dict is read without running anything in it: plain numbers and texts are let in and nothing else.
"""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.format.faults import OnError, RowAt, RowError
from msp_ds.data.format.image_ids import Corpus, canonical_image_id
from msp_ds.data.format.region_checks import RawRegions
from msp_ds.errors import InputError
from msp_ds.storage.file_kinds import refuse_other_kind
from msp_ds.storage.restricted_pickle import PICKLE_ERRORS, load_pickle
from msp_ds.storage.small_files import parse_json, read_small_bytes
from msp_ds.terminal import run_tool
from tools.convert.npz_parts import ALLOWED, PartReport, converter_parser, needed, run_converter, write_parts

_TABLES = ("image_features", "image_bb", "spatial_features")


def convert(
    source: Path, *, out: Path, ids: Path | None = None, corpus: Corpus = "coco", on_error: OnError = "fail"
) -> PartReport:
    """Write all images of a source.

    Raises: InputError for a file of another layout, a missing or unfit list of ids, and damaged images.
    """
    h5py = needed("h5py")
    refuse_other_kind(source, what="HDF5")
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise InputError(f"{source} is no readable HDF5 ({error})") from None
    with file:
        if all(name in file for name in _TABLES):
            rows = _rows_of(file, ids, source=source, corpus=corpus)
            images, read = list(rows.items()), partial(_table_image, file)
        else:
            groups = sorted(file)
            if not groups or not isinstance(file[groups[0]], h5py.Group):
                raise InputError(f"{source} holds neither {', '.join(_TABLES)} nor a group an image")
            names = (canonical_image_id(name, corpus=corpus, where=str(source)) for name in groups)
            images, read = list(zip(names, groups, strict=True)), partial(_group_image, file)
        return write_parts(images, read, source=source, out=out, on_error=on_error)


def read_ids(path: Path) -> dict[Any, int]:
    """Image id -> row. Raises: InputError for other content and for a pickle that would run something."""
    what = "a JSON of {image id: row} or of a list of image ids, row by row"
    refuse_other_kind(path, what=what)
    try:
        if path.suffix in (".pkl", ".pickle"):
            value = load_pickle(io.BytesIO(read_small_bytes(path, most=4 << 30)), allowed=ALLOWED)
        else:
            value = parse_json(read_small_bytes(path, most=4 << 30))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {what}") from None
    except PICKLE_ERRORS as error:
        raise InputError(f"{path} is unusable ({error}); it should be {what}") from None
    if isinstance(value, list):
        value = {image_id: row for row, image_id in enumerate(value)}
    if not isinstance(value, dict) or not value or any(type(row) is not int for row in value.values()):
        raise InputError(f"{path} should be {what}")
    return value


def _rows_of(file: Any, ids: Path | None, *, source: Path, corpus: Corpus) -> dict[str, int]:
    """Canonical id -> row, in the order of the rows."""
    if ids is None:
        raise InputError(f"{source} holds rows without image ids; name the file that has them with --ids")
    count = len(file["pos_boxes"] if "pos_boxes" in file else file["image_features"])
    rows = sorted(read_ids(ids).items(), key=lambda item: item[1])
    if not 0 <= rows[0][1] <= rows[-1][1] < count or len({row for _, row in rows}) < len(rows):
        raise InputError(f"{ids} names rows twice or beyond the {count} of {source}")
    named = [canonical_image_id(raw, corpus=corpus, where=str(ids)) for raw, _ in rows]
    if len(set(named)) < len(named):
        raise InputError(f"{ids} names an image twice")
    return {image_id: row for image_id, (_, row) in zip(named, rows, strict=True)}


def _table_image(file: Any, place: RowAt, row: int) -> RawRegions:
    where: Any = row
    try:
        if "pos_boxes" in file:
            start, end = (int(bound) for bound in file["pos_boxes"][row])
            where = slice(start, end)
        features, boxes, fractions = (np.asarray(file[name][where]) for name in _TABLES)
    except (OSError, ValueError) as error:
        raise RowError(place, f"row {row} cannot be read ({error})") from None
    if not len(boxes) or not len(boxes) == len(features) == len(fractions):
        raise RowError(place, f"row {row} holds {len(features)} features, {len(boxes)} boxes")
    width = side(boxes[:, 2], fractions[:, 2])
    height = side(boxes[:, 3], fractions[:, 3])
    if not width or not height:
        raise RowError(place, f"row {row}: image_bb and spatial_features do not agree on the image's size")
    return RawRegions(place=place, height=height, width=width, boxes=boxes, features=features)


def side(pixels: np.ndarray, fractions: np.ndarray) -> int:
    """The length of an image's side on which points [R] are known in pixels and in fractions; 0 when they disagree."""
    furthest = int(np.argmax(fractions))
    if not np.isfinite(pixels).all() or not np.isfinite(fractions).all() or fractions[furthest] <= 0:
        return 0
    length = float(pixels[furthest]) / float(fractions[furthest])
    whole = round(length)
    # Fractions are float32 to seven digits: the quotient misses a whole number by less than a thousandth.
    agrees = abs(length - whole) < 0.01 and bool((np.abs(fractions * whole - pixels) < 0.05).all())
    return whole if agrees else 0


def _group_image(file: Any, place: RowAt, name: str) -> RawRegions:
    group = file[name]
    try:
        return RawRegions(
            place=place,
            height=int(group["img_h"][()]),
            width=int(group["img_w"][()]),
            boxes=group["boxes"][()],
            features=group["features"][()],
            object_ids=group["obj_id"][()],
            object_scores=group["obj_conf"][()],
            attribute_ids=group["attr_id"][()],
            attribute_scores=group["attr_conf"][()],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RowError(place, f"its group is damaged or of another layout ({error})") from None


def main() -> None:
    """Read the flags and convert."""
    parser = converter_parser(__doc__, source="the HDF5 file", has_corpus=True)
    parser.add_argument("--ids", type=Path, help="which image each row is")
    run_converter(convert, parser)


if __name__ == "__main__":
    run_tool(main)
