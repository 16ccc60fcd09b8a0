"""The arrays of a part."""

from __future__ import annotations

import numpy as np

from msp_ds.detector_record import DetectorRecord
from msp_ds.regions.detector import DetectedRegions
from msp_ds.regions.region_parts import part_arrays
from msp_ds.regions.region_pool import PictureRegions


def regions(count: int) -> PictureRegions:
    """So many regions, of which the first has no label and the last has label `count` and attribute 7."""
    ids = np.full(count, -1)
    ids[-1] = count
    found = DetectedRegions(
        boxes=np.ones((count, 4), np.float32),
        features=np.ones((count, 2), np.float16),
        object_ids=ids,
        object_scores=np.full(count, 0.5, np.float32),
        attribute_ids=np.where(ids == -1, -1, 7),
        attribute_scores=np.full(count, 0.25, np.float32),
    )
    return PictureRegions(found, 30, 40)


def record(*, objects: str = "", attributes: str = "") -> DetectorRecord:
    return DetectorRecord(kind="k", name="n", weights_sha256="w", objects_sha256=objects, attributes_sha256=attributes)


def test_labels_are_there_where_the_detector_has_them() -> None:
    found = {"own-a": regions(2)}
    plain = {"image_id", "height", "width", "num_boxes", "boxes", "features", "detector"}
    assert part_arrays(found, record=record(), num_regions=2).keys() == plain
    objects = part_arrays(found, record=record(objects="o"), num_regions=2)
    assert objects.keys() == plain | {"objects_id", "objects_conf"}
    both = part_arrays(found, record=record(objects="o", attributes="a"), num_regions=3)
    assert both.keys() == objects.keys() | {"attrs_id", "attrs_conf"}
    assert both["attrs_id"].tolist() == [[-1, 7, -1]]
    assert both["attrs_conf"].tolist() == [[0.25, 0.25, 0]]
    assert both["objects_id"].tolist() == [[-1, 2, -1]]


def test_more_boxes_than_asked_for_are_kept() -> None:
    found = part_arrays({"own-a": regions(3), "own-b": regions(1)}, record=record(), num_regions=2)
    assert found["boxes"].shape == (2, 3, 4)
    assert found["num_boxes"].tolist() == [3, 1]
    assert found["boxes"][1].tolist() == [[1] * 4, [0] * 4, [0] * 4]


def test_a_part_without_pictures_has_no_arrays() -> None:
    assert part_arrays({}, record=record(), num_regions=2) == {}
