"""Region features in HDF5 as npz parts, read back by the package."""

from __future__ import annotations

import collections
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from msp_ds.data.format.region_checks import LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.records import RegionRecord
from tools.convert.hdf5 import convert, read_ids, side

SIZES = [(480, 640), (333, 500), (1, 427)]
"""Height and width of the three images."""
IDS = {391895: 0, 9: 1, 25: 2}
COUNTS = [3, 10, 2]


def regions(place: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, boxes in pixels and spatial features of an image, as bottom-up attention's converter makes them."""
    height, width = SIZES[place]
    rng = np.random.default_rng(place)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    boxes = (corners * [width, height, width, height]).astype(np.float32)
    shares = boxes / np.array([width, height] * 2, np.float32)
    spatial = np.concatenate([shares, shares[:, 2:] - shares[:, :2]], axis=1)
    return rng.random((count, 6)).astype(np.float32), boxes, spatial


def write_fixed(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        parts = [regions(place, 3) for place in range(3)]
        for name, values in zip(
            ("image_features", "image_bb", "spatial_features"), zip(*parts, strict=True), strict=True
        ):
            file[name] = np.stack(values)
    return path


def write_adaptive(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        parts = [regions(place, count) for place, count in enumerate(COUNTS)]
        for name, values in zip(
            ("image_features", "image_bb", "spatial_features"), zip(*parts, strict=True), strict=True
        ):
            file[name] = np.concatenate(values)
        ends = np.cumsum(COUNTS)
        file["pos_boxes"] = np.stack([ends - COUNTS, ends], axis=1).astype(np.int32)
    return path


def write_ids(path: Path, value: Any = None) -> Path:
    path.write_text(json.dumps({str(image_id): row for image_id, row in IDS.items()} if value is None else value))
    return path


def records(out: Path) -> list[RegionRecord]:
    labels = LabelCounts(objects=4, attributes=2)
    return [file.read(row, labels).record for file in list_region_files((str(out),)) for row in file.rows()]


@pytest.mark.parametrize(("write", "counts"), [(write_fixed, [3, 3, 3]), (write_adaptive, COUNTS)])
def test_tables_become_records_whose_size_follows_from_the_boxes(tmp_path: Path, write: Any, counts: list[int]) -> None:
    report = convert(write(tmp_path / "a.hdf5"), out=tmp_path / "out", ids=write_ids(tmp_path / "ids.json"))
    assert report.num_images == 3
    for place, record in enumerate(records(tmp_path / "out")):
        features, boxes, _ = regions(place, counts[place])
        assert record.image_id == ["coco-391895", "coco-9", "coco-25"][place]
        assert (record.height, record.width) == SIZES[place]
        np.testing.assert_array_equal(record.features, features.astype(np.float16))
        np.testing.assert_array_equal(record.boxes, boxes)
        assert set(record.object_ids.tolist()) == {-1}


def test_groups_of_volta_become_records_with_labels(tmp_path: Path) -> None:
    features, boxes, _ = regions(0, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("COCO_val2014_000000000042")
        group["features"], group["boxes"], group["img_h"], group["img_w"] = features, boxes, 480, 640
        group["obj_id"], group["obj_conf"] = np.array([0, 3, 1]), np.array([0.5, 0.25, 1], np.float32)
        group["attr_id"], group["attr_conf"] = np.array([1, 0, 1]), np.array([0.75, 0, 1], np.float32)
    convert(tmp_path / "a.h5", out=tmp_path / "out")
    [record] = records(tmp_path / "out")
    assert (record.image_id, record.height, record.width) == ("coco-42", 480, 640)
    assert (record.object_ids.tolist(), record.attribute_ids.tolist()) == ([0, 3, 1], [1, 0, 1])
    assert (record.object_scores.tolist(), record.attribute_scores.tolist()) == ([0.5, 0.25, 1], [0.75, 0, 1])


def test_a_side_follows_from_pixels_and_fractions_that_agree() -> None:
    pixels = np.array([0, 213.3, 426.6], np.float32)
    assert side(pixels, pixels / np.float32(640)) == 640
    assert side(pixels, pixels / np.float32(640.5)) == 0
    assert side(pixels, np.zeros(3, np.float32)) == 0
    assert side(pixels, np.array([0, 0.5, 0.6666], np.float32)) == 0
    assert side(np.array([np.nan], np.float32), np.ones(1, np.float32)) == 0


def test_boxes_that_disagree_with_their_fractions_are_an_error_of_their_image(tmp_path: Path) -> None:
    source, ids = write_fixed(tmp_path / "a.hdf5"), write_ids(tmp_path / "ids.json")
    with h5py.File(source, "r+") as file:
        file["spatial_features"][1, 0, 2] = 0.9
    with pytest.raises(InputError, match=r"a.hdf5, image coco-9: row 1: image_bb and spatial_features do not agree"):
        convert(source, out=tmp_path / "out", ids=ids)
    report = convert(source, out=tmp_path / "out", ids=ids, on_error="skip")
    assert (report.num_images, report.num_left_out) == (2, 1)


def test_ids_are_read_from_json_and_from_plain_pickles(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(IDS, protocol=2))
    assert read_ids(tmp_path / "a.pkl") == IDS
    assert read_ids(write_ids(tmp_path / "a.json", [7, 9])) == {7: 0, 9: 1}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("boom",))


@pytest.mark.parametrize("value", [{1: Bomb()}, Bomb(), {1: np.int64(0)}, collections.Counter({1: 0})])
def test_a_pickle_that_needs_a_name_is_refused_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(InputError, match=r"a.pkl is unusable \(it needs"):
        read_ids(tmp_path / "a.pkl")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"1": 3}, "names rows twice or beyond the 3"),
        ({"1": 0, "2": 0}, "names rows twice"),
        ({"cat": 0}, "'cat' is no image id"),
        ({"1": 0, "COCO_val2014_000000000001": 1}, "names an image twice"),
        ({"1": "a"}, "should be a JSON of"),
        ([], "should be a JSON of"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, value: Any, fault: str) -> None:
    ids = write_ids(tmp_path / "ids.json", value)
    with pytest.raises(InputError, match=fault):
        convert(write_fixed(tmp_path / "a.hdf5"), out=tmp_path / "out", ids=ids)


def test_what_is_no_known_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"not")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["numbers"] = np.ones(3)
    for name, fault in [("a", "is no readable HDF5"), ("b", "holds neither"), ("c", "is no readable HDF5")]:
        with pytest.raises(InputError, match=rf"{name}.hdf5 {fault}"):
            convert(tmp_path / f"{name}.hdf5", out=tmp_path / "out")
    with pytest.raises(InputError, match="name the file that has them with --ids"):
        convert(write_fixed(tmp_path / "d.hdf5"), out=tmp_path / "out")
