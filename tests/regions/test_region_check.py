"""Own regions beside recorded ones, and regions of a user's own boxes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from colour_cells import NAME, Write, draw
from raw_files import write_npz

from msp_ds.data.progress import NoProgress
from msp_ds.errors import InputError
from msp_ds.records import RegionRecord
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.region_check import RecordedRows, compare_regions
from msp_ds.regions.region_job import RegionsJob, check_regions


def recorded(boxes: list[list[float]], features: list[list[float]], objects: list[int]) -> RegionRecord:
    count = len(boxes)
    return RegionRecord(
        image_id="coco-1",
        source="rows.tsv row 1",
        height=100,
        width=100,
        boxes=np.array(boxes, np.float32),
        features=np.array(features, np.float16),
        object_ids=np.array(objects, np.int16),
        object_scores=np.zeros(count, np.float32),
        attribute_ids=np.full(count, -1, np.int16),
        attribute_scores=np.zeros(count, np.float32),
    )


def own(boxes: list[list[float]], features: list[list[float]], objects: list[int]) -> DetectedRegions:
    row = recorded(boxes, features, objects)
    names = ("boxes", "features", "object_ids", "object_scores", "attribute_ids", "attribute_scores")
    return DetectedRegions(**{name: getattr(row, name) for name in names})


def test_the_figures_are_those_worked_by_hand() -> None:
    theirs = recorded([[0, 0, 10, 100], [50, 0, 60, 100], [0, 0, 90, 90]], [[3, 4], [1, 0], [9, 9]], [7, 8, 9])
    # The last overlaps the first recorded one by 96 of 100, the middle one by 90 of 110.
    ours = own([[50, 0, 60, 100], [1, 0, 11, 100], [0, 4, 10, 100]], [[1, 1], [9, 9], [4, 3]], [8, 7, 6])
    boxes, pairs, objects, attributes, cosine, difference = compare_regions(ours, theirs)
    assert (boxes, pairs, objects, attributes) == (3, 2, 1, 2)
    assert cosine == pytest.approx(24 / 25 + 1 / math.sqrt(2))
    assert difference == pytest.approx((1 - 1) / 2 + (0 + 1) / 2)


def test_a_box_is_matched_once() -> None:
    theirs = recorded([[0, 0, 10, 100], [0, 0, 10, 99]], [[1, 0]] * 2, [1, 1])
    assert compare_regions(own([[0, 0, 10, 99]], [[1, 0]], [1]), theirs)[1] == 1


def test_nothing_matched_is_nothing() -> None:
    theirs = recorded([[0, 0, 10, 10]], [[1, 0]], [1])
    far = own([[50, 50, 60, 60]], [[1, 0]], [1])
    none = DetectedRegions(**{name: array[:0] for name, array in vars(far).items()})
    for ours in (far, none):
        assert compare_regions(ours, theirs).tolist() == [1, 0, 0, 0, 0, 0]


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"rows\.tsv row 1: features are 2 wide, the detector's 3; --check takes"):
        compare_regions(own([[0, 0, 1, 1]], [[1, 0, 0]], [1]), recorded([[0, 0, 1, 1]], [[1, 0]], [1]))


def job(photos: Path, **options: object) -> RegionsJob:
    return RegionsJob(photos=[str(photos)], detector=NAME, jobs=1, **options)  # type: ignore[arg-type]


def test_a_detector_comes_nearest_to_itself(tmp_path: Path, photos: Path, write: Write) -> None:
    write(photos, tmp_path / "out")
    draw(photos / "new.png", 50)  # it has no row
    found = check_regions(job(photos), str(tmp_path / "out"), progress=NoProgress())
    assert list(found) == [f"own-img-{number}" for number in range(7)]
    for row in found.values():
        assert row.tolist() == [9, 9, 9, 9, pytest.approx(9), 0]
    with pytest.raises(InputError, match="has no row of any of the pictures; see --corpus"):
        check_regions(job(photos / "new.png"), str(tmp_path / "out"), progress=NoProgress())


def test_given_boxes_are_kept_in_their_order(tmp_path: Path, write: Write) -> None:
    rows = write_npz(tmp_path / "rows.npz")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2):
        draw(folder / f"COCO_val2014_{number:012d}.png", number, size=(64, 48))
    own_boxes = DetectorOptions(selection="given", regions=2)
    write(folder, tmp_path / "out", options=own_boxes, boxes=str(rows))
    written, wanted = RecordedRows(str(tmp_path / "out")), RecordedRows(str(rows))
    for name in ("coco-1", "coco-2"):
        np.testing.assert_array_equal(written[name].boxes, wanted[name].boxes)  # three, though --regions is 2
    same = check_regions(job(folder, options=own_boxes, boxes=str(rows)), str(tmp_path / "out"), progress=NoProgress())
    assert [(row[1], row[5]) for row in same.values()] == [(3, 0)] * 2


def test_given_boxes_need_rows_and_a_detector_that_has_them(tmp_path: Path, photos: Path, write: Write) -> None:
    rows, own_boxes = str(write_npz(tmp_path / "rows.npz")), DetectorOptions(selection="given")
    with pytest.raises(InputError, match="--selection given and --boxes ROWS need each other"):
        write(photos, tmp_path / "out", options=own_boxes)
    with pytest.raises(InputError, match=r"rows\.npz has no boxes of .*IMG 0\.png \(own-img-0\)"):
        write(photos, tmp_path / "out", options=own_boxes, boxes=rows)
    with pytest.raises(InputError, match=r"colours 3x3 .* takes no boxes; leave out --selection given"):
        write(photos, tmp_path / "out", options=own_boxes, boxes=rows, detector="plain")


def test_one_archive_at_a_time_is_in_memory(tmp_path: Path, photos: Path, write: Write) -> None:
    write(photos, tmp_path / "rows")
    rows = RecordedRows(str(tmp_path / "rows"))
    for number in (0, 3, 6, 1):  # the first of each of three parts, and back
        assert rows[f"own-img-{number}"].image_id == f"own-img-{number}"
    assert not any("_arrays" in vars(file) for file, _ in rows._rows.values())
