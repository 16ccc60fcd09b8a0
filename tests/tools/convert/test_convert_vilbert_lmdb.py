"""ViLBERT's and VOLTA's LMDB as npz parts, read back by the package."""

from __future__ import annotations

import base64
import collections
import pickle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from msp_ds.data.format.region_checks import LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.records import RegionRecord
from tools.convert.vilbert_lmdb import convert

FEATURES = np.arange(12, dtype="<f4").reshape(2, 6)
BOXES = np.array([[1, 2, 30, 40], [0, 0, 64, 48]], "<f4")
SCORES = np.array([[0.9, 0.02, 0.03, 0.05], [0.1, 0.2, 0.6, 0.1]], "<f4")
"""Background first: labels 2 (0.05) and 1 (0.6)."""


def text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def vilbert_row(**changes: Any) -> dict[str, Any]:
    return {
        "image_id": "9",
        "image_w": "64",
        "image_h": "48",
        "num_boxes": "2",
        "boxes": text(BOXES),
        "features": text(FEATURES),
        "cls_prob": text(SCORES),
        **changes,
    }


def volta_row() -> dict[str, Any]:
    """As Python 3.6's csv module gives it."""
    row = vilbert_row()
    shared = {name: row[name] for name in ("num_boxes", "boxes", "features", "cls_prob")}
    labels = {
        "objects_id": text(np.array([2, 0], "<i8")),
        "objects_conf": text(np.array([0.5, 0.25], "<f4")),
        "attrs_id": text(np.array([1, 1], "<i8")),
        "attrs_conf": text(np.array([0.125, 1], "<f4")),
    }
    return collections.OrderedDict(
        {"img_id": "COCO_val2014_000000000042", "img_h": "48", "img_w": "64"} | shared | labels
    )


def write(folder: Path, rows: dict[str, Any]) -> Path:
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key, row in rows.items():
            transaction.put(key.encode(), pickle.dumps(row))
        transaction.put(b"keys", pickle.dumps([key.encode() for key in rows]))
    return folder


def records(out: Path) -> list[RegionRecord]:
    labels = LabelCounts(objects=3, attributes=2)
    return [file.read(row, labels).record for file in list_region_files((str(out),)) for row in file.rows()]


def test_vilberts_rows_get_the_best_label_that_is_not_background(tmp_path: Path) -> None:
    report = convert(write(tmp_path / "lmdb", {"9": vilbert_row()}), out=tmp_path / "out", corpus="f30k")
    assert report.num_images == 1
    [record] = records(tmp_path / "out")
    assert (record.image_id, record.height, record.width) == ("f30k-9", 48, 64)
    assert (record.object_ids.tolist(), record.attribute_ids.tolist()) == ([2, 1], [-1, -1])
    np.testing.assert_array_equal(record.object_scores, np.float32([0.05, 0.6]))
    np.testing.assert_array_equal(record.boxes, BOXES)
    np.testing.assert_array_equal(record.features, FEATURES)


def test_voltas_rows_keep_their_labels(tmp_path: Path) -> None:
    convert(write(tmp_path / "lmdb", {"42": volta_row()}), out=tmp_path / "out")
    [record] = records(tmp_path / "out")
    assert (record.image_id, record.height, record.width) == ("coco-42", 48, 64)
    assert (record.object_ids.tolist(), record.attribute_ids.tolist()) == ([2, 0], [1, 1])
    assert (record.object_scores.tolist(), record.attribute_scores.tolist()) == ([0.5, 0.25], [0.125, 1])


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_features_keep_their_width_whatever_their_type(tmp_path: Path, kind: str) -> None:
    convert(write(tmp_path / "lmdb", {"9": vilbert_row(features=text(FEATURES.astype(kind)))}), out=tmp_path / "out")
    [record] = records(tmp_path / "out")
    np.testing.assert_array_equal(record.features, FEATURES)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("boom",))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (vilbert_row(cls_prob=Bomb()), "it needs builtins.print"),
        (vilbert_row(features=FEATURES), "it needs numpy"),
        (vilbert_row(num_boxes="3"), "ValueError"),
        (vilbert_row(num_boxes="0"), "num_boxes is 0"),
        (vilbert_row(boxes=text(BOXES)[:-3]), "Error"),
        ({"image_id": "9"}, "num_boxes"),
        ("text", "TypeError"),
    ],
)
def test_a_row_that_is_damaged_or_not_plain_is_a_fault_of_its_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Any, fault: str
) -> None:
    source = write(tmp_path / "lmdb", {"8": vilbert_row(), "9": row})
    with pytest.raises(InputError, match=rf"image coco-9: its row is unusable \(.*{fault}.*--on-error skip"):
        convert(source, out=tmp_path / "out")
    assert convert(source, out=tmp_path / "out", on_error="skip").num_left_out == 1
    assert [record.image_id for record in records(tmp_path / "out")] == ["coco-8"]
    assert "boom" not in capsys.readouterr().out


def test_what_is_no_lmdb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.lmdb").write_bytes(b"not")
    for name, fault in [("a.lmdb", "is no readable LMDB"), ("b.lmdb", "is missing")]:
        with pytest.raises(InputError, match=rf"{name} {fault}"):
            convert(tmp_path / name, out=tmp_path / "out")
