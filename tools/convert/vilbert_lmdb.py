"""Converts ViLBERT's and VOLTA's LMDB of region features to npz parts that `msp-ds shard --regions OUT` reads.

    python tools/convert/vilbert_lmdb.py coco_trainval.lmdb --out regions

Needs: pip install 'msp-ds[tools]'. An image is a pickled row of the TSV that the LMDB was made from, arrays in base64.
The pickles are read without running anything in them: rows of plain numbers and texts are let in and nothing else. That
leaves out LMDBs whose rows hold numpy arrays; convert those from their HDF5 with hdf5.py.

Object labels are VOLTA's, or the best of ViLBERT's cls_prob without the background, as LXMERT's are; ViLBERT has no
attributes.
"""

from __future__ import annotations

import base64
import binascii
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.format.faults import OnError, RowAt, RowError
from msp_ds.data.format.image_ids import Corpus, canonical_image_id
from msp_ds.data.format.region_checks import RawRegions
from msp_ds.preparation.region_features.feature_types import possible_types
from msp_ds.storage.restricted_pickle import PICKLE_ERRORS, load_pickle
from msp_ds.terminal import run_tool
from tools.convert import npz_parts

_KEYS = b"keys"
_LABELS = {
    "object_ids": ("objects_id", "<i8"),
    "object_scores": ("objects_conf", "<f4"),
    "attribute_ids": ("attrs_id", "<i8"),
    "attribute_scores": ("attrs_conf", "<f4"),
}
"""Field of RawRegions -> VOLTA's column, type."""


def convert(source: Path, *, out: Path, corpus: Corpus = "coco", on_error: OnError = "fail") -> npz_parts.PartReport:
    """Write all images of a source.

    Raises: InputError for what is no LMDB, names that are no image ids, and damaged or foreign rows.
    """
    with npz_parts.lmdb_transaction(source) as transaction:
        keys = sorted(bytes(key) for key in transaction.cursor().iternext(values=False) if bytes(key) != _KEYS)
        images = [(canonical_image_id(_text(key), corpus=corpus, where=str(source)), key) for key in keys]

        def read(place: RowAt, key: bytes) -> RawRegions:
            try:
                return image_of(load_pickle(io.BytesIO(transaction.get(key)), allowed=npz_parts.ALLOWED), place)
            except (*PICKLE_ERRORS, binascii.Error) as error:
                raise RowError(place, f"its row is unusable ({type(error).__name__}: {error})") from None

        return npz_parts.write_parts(images, read, source=source, out=out, on_error=on_error)


def image_of(row: dict[str, Any], place: RowAt) -> RawRegions:
    """The image in a row. Raises: KeyError, ValueError or TypeError when a column is missing or misshapen."""
    count = int(row["num_boxes"])
    if count <= 0:
        raise ValueError(f"num_boxes is {count}")
    labels = {}
    if "objects_id" in row:
        labels = {field: _array(row, name, dtype, count).reshape(count) for field, (name, dtype) in _LABELS.items()}
    elif "cls_prob" in row:
        labels = npz_parts.labels_of(_array(row, "cls_prob", "<f4", count))
    return RawRegions(
        place=place,
        height=int(row["img_h"] if "img_h" in row else row["image_h"]),
        width=int(row["img_w"] if "img_w" in row else row["image_w"]),
        boxes=_array(row, "boxes", "<f4", count).reshape(count, 4),
        features=_array(row, "features", _feature_type(row), count),
        **labels,
    )


def _array(row: dict[str, Any], name: str, dtype: str, count: int) -> np.ndarray:
    """The numbers of a column, one line a box."""
    return np.frombuffer(base64.b64decode(row[name], validate=True), dtype=dtype).reshape(count, -1)


def _feature_type(row: dict[str, Any]) -> str:
    """The type of the features, by their size in bytes. Raises: ValueError where several types fit."""
    kinds = possible_types(base64.b64decode(row["features"], validate=True))
    if len(kinds) > 1:
        raise ValueError(f"features may be {' or '.join(kinds)}")
    return kinds[0] if kinds else "float32"


def _text(key: bytes) -> str:
    return key.decode("ascii", errors="replace")


def main() -> None:
    """Read the flags and convert."""
    parser = npz_parts.converter_parser(__doc__, source="the LMDB, a folder or a file", has_corpus=True)
    npz_parts.run_converter(convert, parser)


if __name__ == "__main__":
    run_tool(main)
