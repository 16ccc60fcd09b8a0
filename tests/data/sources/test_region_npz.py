"""Generic archives of region features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import Row, write_npz

from msp_ds.data.sources.region_checks import LabelCounts, Reading
from msp_ds.data.sources.region_files import list_region_files
from msp_ds.data.sources.region_npz import NpzRegions
from msp_ds.errors import InputError

LABELS = LabelCounts(objects=3, attributes=2)


def read(path: Path) -> list[Reading]:
    regions = NpzRegions(path, "coco")
    return [regions.read(row, LABELS) for row in regions.rows()]


def test_rows_become_records(tmp_path: Path) -> None:
    [_, reading] = read(write_npz(tmp_path / "a.npz"))
    record = reading.record
    assert (record.image_id, record.source, record.height, record.width) == ("coco-2", "a.npz row 1", 48, 64)
    assert record.object_ids.tolist() == [0, 2, -1]
    np.testing.assert_array_equal(record.features, Row(2).features.astype(np.float16))


def test_half_features_pass_unchanged(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float16)
    readings = read(write_npz(tmp_path / "a.npz", features=features))
    np.testing.assert_array_equal(np.stack([reading.record.features for reading in readings]), features)


def test_numbers_serve_as_ids(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", image_id=np.array([7, 9]))
    assert [row.image_id for row in NpzRegions(path, "vg").rows()] == ["vg-7", "vg-9"]


NAN = np.ones((2, 3, 4), np.float32)
NAN[1, 0, 3] = np.nan
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"features": None}, "a.npz row 0, image coco-1: lacks the array features"),
    "pickled": ({"boxes": np.array([[object()]] * 2)}, "pickles"),
    "NaN": ({"features": NAN}, "a.npz row 1, image coco-2: feature 3 of region 0 is nan"),
    "label beyond": ({"objects_id": np.array([[0, 1, 2], [0, 3, 1]])}, "row 1, image coco-2: object id 3 of region 1"),
    "label as float": ({"objects_id": np.zeros((2, 3))}, "objects_id is float64"),
    "too few images": ({"height": np.array([48])}, r"height has shape \(1,\)"),
    "too few regions": ({"features": np.ones((2, 2, 4))}, r"features has shape \(2, 2, 4\)"),
    "flat": ({"features": np.ones((2, 12))}, "features is float64 with 2 axes"),
    "boxes of five": ({"boxes": np.ones((2, 3, 5))}, "boxes of other than 4"),
    "foreign id": ({"image_id": np.array(["x", "y"])}, "a.npz row 0: 'x' is no image id"),
    "no size": ({"width": np.array([64, 0])}, "row 1, image coco-2: height 48 and width 0"),
}


@pytest.mark.parametrize(("changes", "fault"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_bad_archive_is_refused(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    path = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(InputError, match=fault):
        read(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "b.npz").write_bytes(b"")
    np.save(tmp_path / "c.npy", np.ones(3))
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    for name in "abc":
        with pytest.raises(InputError, match=rf"{name}.npz"):
            read(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match=r"d.npz: is missing"):
        read(tmp_path / "d.npz")


def test_a_folder_stands_for_its_archives_in_order(tmp_path: Path) -> None:
    for name in ("b.npz", "a.npz"):
        write_npz(tmp_path / name)
    (tmp_path / "objects_vocab.txt").touch()
    assert [file.path.name for file in list_region_files((str(tmp_path),))] == ["a.npz", "b.npz"]


def test_paths_that_hold_no_features_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").touch()
    write_npz(tmp_path / "a.npz")
    for paths, fault in [
        ((tmp_path / "empty",), "is a folder without .npz files"),
        ((tmp_path / "a.csv",), "ends neither in .tsv nor in .npz"),
        ((tmp_path / "b.tsv",), "is missing"),
        ((tmp_path / "a.npz", tmp_path / "empty" / ".." / "a.npz"), "is named twice"),
    ]:
        with pytest.raises(InputError, match=fault):
            list_region_files(tuple(str(path) for path in paths))


def test_the_real_archives_read_whole(real_data: Path) -> None:
    labels = LabelCounts(objects=80, attributes=11)
    path = real_data / "regions_npz" / "coco_val2017_000.npz"
    regions = NpzRegions(path, "coco")
    readings = [regions.read(row, labels) for row in regions.rows()]
    with np.load(path) as arrays:
        features, image_ids = arrays["features"], arrays["image_id"]
    assert [reading.record.image_id for reading in readings] == [f"coco-{int(number)}" for number in image_ids]
    np.testing.assert_array_equal(np.stack([reading.record.features for reading in readings]), features)
