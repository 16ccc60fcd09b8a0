"""Generic archives of region features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import Row, adaptive_row, write_npz

from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.preparation.region_features.region_npz import NpzRegions
from msp_ds.preparation.region_features.region_tsv import TsvRegions

LABELS = LabelCounts(objects=3, attributes=2)


def read(path: Path) -> list[CheckedRegions]:
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
    "no boxes": ({"num_boxes": np.array([0, 3])}, "row 0, image coco-1: num_boxes is 0; it should be 1 to 3"),
    "more boxes than there are": ({"num_boxes": np.array([3, 4])}, "row 1, image coco-2: num_boxes is 4"),
    "ids without scores": ({"objects_conf": None}, "has one of objects_id and objects_conf without the other"),
    "many without ids": ({"image_id": None}, "a.npz: lacks the array image_id"),
    "too few ids": ({"image_id": np.array([1])}, r"image_id has shape \(1,\), which does not match boxes"),
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


def test_tsv_may_be_in_numbered_and_compressed_pieces(tmp_path: Path) -> None:
    names = ["a.tsv", "a.tsv.0", "a.tsv.12", "a.tsv.gz", "a.tsv.bz2", "a.tsv.1.zst"]
    for name in names:
        (tmp_path / name).touch()
    files = list_region_files(tuple(str(tmp_path / name) for name in names))
    assert [type(file) for file in files] == [TsvRegions] * 6
    for name in ("a.gz", "a.tsv.xz", "atsv", "a.tsv.x"):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match="ends neither in"):
            list_region_files((str(tmp_path / name),))


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


def one_image(path: Path, row: Row, **changes: Any) -> Path:
    """An archive of one image, without an axis of images and without labels."""
    arrays = {
        "image_id": np.array(row.number),
        "height": np.array(row.height),
        "width": np.array(row.width),
        "boxes": row.boxes,
        "features": row.features.astype(np.float16),
    }
    np.savez_compressed(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return path


def test_an_archive_may_hold_one_image_with_as_many_boxes_as_it_likes(tmp_path: Path) -> None:
    for number, count in [(4, 10), (5, 100)]:
        one_image(tmp_path / f"{number}.npz", adaptive_row(number, count))
    readings = [reading for file in list_region_files((f"vg:{tmp_path}",)) for reading in read(file.path)]
    assert [len(reading.record.boxes) for reading in readings] == [10, 100]
    for number, reading in enumerate(readings, start=4):
        record = reading.record
        assert (record.image_id, record.source) == (f"coco-{number}", f"{number}.npz row 0")
        np.testing.assert_array_equal(
            record.features, adaptive_row(number, len(record.boxes)).features.astype(np.float16)
        )
        assert set(record.object_ids.tolist()) == {-1}


def test_without_an_id_the_name_of_a_one_image_archive_is_the_id(tmp_path: Path) -> None:
    path = one_image(tmp_path / "COCO_val2014_000000000042.npz", Row(1), image_id=None)
    assert [row.image_id for row in NpzRegions(path, "vg").rows()] == ["coco-42"]
    path = one_image(tmp_path / "cat.npz", Row(1), image_id=None)
    with pytest.raises(InputError, match=r"cat.npz row 0: 'cat' is no image id"):
        read(path)


def test_the_number_of_boxes_cuts_the_padding_off(tmp_path: Path) -> None:
    first, second = read(write_npz(tmp_path / "a.npz", num_boxes=np.array([1, 3])))
    assert first.record.object_ids.tolist() == [0]
    assert first.record.boxes.tolist() == [[0, 0, 32, 24]]
    assert first.record.features.shape == (1, 4)
    assert second.record.object_ids.tolist() == [0, 2, -1]


def test_padding_may_hold_anything(tmp_path: Path) -> None:
    features = np.stack([Row(1).features, Row(2).features])
    features[0, 1:] = np.nan
    first, _ = read(write_npz(tmp_path / "a.npz", num_boxes=np.array([1, 3]), features=features))
    np.testing.assert_array_equal(first.record.features, Row(1).features[:1].astype(np.float16))


def test_labels_may_be_absent_by_kind(tmp_path: Path) -> None:
    objects_alone = write_npz(tmp_path / "a.npz", attrs_id=None, attrs_conf=None)
    none = write_npz(tmp_path / "b.npz", objects_id=None, objects_conf=None, attrs_id=None, attrs_conf=None)
    assert [NpzRegions(path, "coco").has_labels for path in (objects_alone, none)] == [True, False]
    [record, _] = [reading.record for reading in read(objects_alone)]
    assert (record.object_ids.tolist(), record.attribute_ids.tolist()) == ([0, 2, -1], [-1, -1, -1])
    assert record.attribute_scores.tolist() == [0, 0, 0]


def test_an_archive_is_let_go_after_its_last_image(tmp_path: Path) -> None:
    regions = NpzRegions(write_npz(tmp_path / "a.npz"), "coco")
    first, last = regions.rows()
    regions.read(first, LABELS)
    assert "_arrays" in vars(regions)
    regions.read(last, LABELS)
    assert "_arrays" not in vars(regions)


def test_the_real_archives_read_whole(real_data: Path) -> None:
    labels = LabelCounts(objects=80, attributes=11)
    path = real_data / "regions_npz" / "coco_val2017_000.npz"
    regions = NpzRegions(path, "coco")
    readings = [regions.read(row, labels) for row in regions.rows()]
    with np.load(path) as arrays:
        features, image_ids = arrays["features"], arrays["image_id"]
    assert [reading.record.image_id for reading in readings] == [f"coco-{int(number)}" for number in image_ids]
    np.testing.assert_array_equal(np.stack([reading.record.features for reading in readings]), features)
