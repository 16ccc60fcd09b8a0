"""The detector of bottom-up attention on a small network, and the published numbers on the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import DEVICE, OnDevice
from torch import Tensor
from vg_files import recipe_weights, write_detector

from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors.vg import VgDetector
from msp_ds.regions.detectors.vg_network import VgSizes

SIZES = {"shorter_side": 90, "longer_side": 160}
random = np.random.default_rng(0)
PICTURES = [
    random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((60, 80), (90, 60), (61, 99))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    here = tmp_path_factory.mktemp("vg")
    torch.save(recipe_weights(), here / "x.pth")
    return write_detector(here / "detector", here / "x.pth", proposals=60, **SIZES)


def detector(folder: Path, **options: Any) -> VgDetector:
    return VgDetector(folder, options=DetectorOptions(**options))


def same(one: DetectedRegions, other: DetectedRegions) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


@pytest.mark.parametrize("selection", ["caffe", "max-nms"])
def test_regions_are_as_the_protocol_has_them(folder: Path, selection: str) -> None:
    vg = detector(folder, selection=selection, regions=12)
    for picture, found in zip(PICTURES, vg.detect(PICTURES), strict=True):
        kinds = {name: (value.dtype.name, len(value)) for name, value in vars(found).items()}
        ids, scores = ("int64", 12), ("float32", 12)
        labels = {"object_ids": ids, "object_scores": scores, "attribute_ids": ids, "attribute_scores": scores}
        assert kinds == {"boxes": ("float32", 12), "features": ("float16", 12), **labels}
        assert found.features.shape == (12, vg.feature_width)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= np.tile(picture.shape[1::-1], 2)).all()
    assert (vg.objects[:2], len(vg.attributes)) == (("object 0", "object 1"), 4)


@pytest.mark.parametrize("selection", ["caffe", "max-nms"])
def test_regions_of_a_picture_do_not_depend_on_the_others(folder: Path, selection: str) -> None:
    vg = detector(folder, selection=selection)
    alone = [vg.detect([picture])[0] for picture in PICTURES]
    assert all(map(same, alone, vg.detect(PICTURES)))
    assert all(map(same, alone[::-1], vg.detect(PICTURES[::-1])))


def test_fewer_proposals_than_regions_are_all_there_is(tmp_path: Path, folder: Path) -> None:
    few = write_detector(tmp_path / "few", folder.parent / "x.pth", proposals=7, **SIZES)
    for selection in ("caffe", "max-nms"):
        found = detector(few, selection=selection).detect(PICTURES[:1])[0]
        assert len(found.boxes) == len(found.features) == 7
        assert len(np.unique(found.boxes, axis=0)) == 7


@pytest.mark.parametrize("selection", ["caffe", "max-nms"])
def test_a_picture_too_narrow_for_the_network_has_no_regions(folder: Path, selection: str) -> None:
    vg = detector(folder, selection=selection)
    narrow = np.zeros((3, 2000, 3), dtype=np.uint8)
    lonely, with_others = vg.detect([narrow])[0], vg.detect([PICTURES[0], narrow])
    assert lonely.boxes.shape == (0, 4)
    assert lonely.features.shape == (0, vg.feature_width)
    assert same(lonely, with_others[1])
    assert same(vg.detect(PICTURES[:1])[0], with_others[0])
    assert vg.detect([]) == []


def test_the_network_sees_blue_green_red(tmp_path: Path) -> None:
    weights = recipe_weights()
    weights["backbone.stem.conv1.weight"][:, 1:] = 0  # it sees the first channel alone
    torch.save(weights, tmp_path / "blue.pth")
    vg = detector(write_detector(tmp_path / "detector", tmp_path / "blue.pth", **SIZES), selection="given")
    black, red, green, blue = (np.zeros((90, 90, 3), dtype=np.uint8) for _ in range(4))
    for channel, picture in enumerate((red, green, blue)):
        picture[..., channel] = 255
    found = vg.detect_boxes([black, red, green, blue], [np.array([[0.0, 0, 90, 90]])] * 4)
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert not same(found[0], found[3])


def test_boxes_that_are_given_have_the_features_of_equal_proposals(folder: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)  # it is not resized
    found = detector(folder, selection="caffe", regions=9).detect([picture])[0]
    again = detector(folder, selection="given").detect_boxes([picture], [found.boxes])[0]
    assert np.array_equal(again.boxes, found.boxes)
    assert np.array_equal(again.features, found.features)
    assert np.array_equal(again.object_ids, found.object_ids)


def test_attribute_scores_leave_the_background_out_before_or_after_the_softmax(folder: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    after = detector(folder, selection="caffe", regions=9).detect([picture])[0]
    before = detector(folder, selection="given").detect_boxes([picture], [after.boxes])[0]
    assert (after.attribute_scores < before.attribute_scores).all()
    assert np.array_equal(after.attribute_ids, before.attribute_ids)


@pytest.mark.parametrize("box", [[-1, 0, 5, 5], [5, 5, 5, 9], [0, 0, 81, 60], [0, 0, np.nan, 60]])
def test_boxes_outside_the_picture_or_without_area_are_refused(folder: Path, box: list[float]) -> None:
    with pytest.raises(InputError, match=r"box 0 .* is empty or outside its picture of 80 x 60 pixels"):
        detector(folder, selection="given").detect_boxes(PICTURES[:1], [np.array([box])])


def test_selection_given_needs_boxes(folder: Path) -> None:
    with pytest.raises(InputError, match="describes your own boxes; give them"):
        detector(folder, selection="given").detect(PICTURES)


def test_the_record_tells_what_changes_the_regions(folder: Path) -> None:
    records = [
        detector(folder, **changes).record
        for changes in ({}, {"selection": "max-nms"}, {"precision": "bf16"}, {"regions": 12})
    ]
    assert len({record.identity for record in records}) == len(records)
    assert records[0].describe().startswith("vg detector (weights ")
    assert records[0].settings["resizer"] == "Pillow bilinear"


def test_bf16_is_near_fp32(folder: Path) -> None:
    boxes = [np.array([[0.0, 0, 40, 40], [10, 10, 79, 59]])]
    fp32, bf16 = (
        detector(folder, selection="given", precision=precision).detect_boxes(PICTURES[:1], boxes)[0].features
        for precision in ("fp32", "bf16")
    )
    difference = np.linalg.norm(bf16.astype(float) - fp32) / np.linalg.norm(fp32.astype(float))
    assert 0 < difference < 0.1


@pytest.mark.parametrize(("selection", "precision"), [("caffe", "fp32"), ("max-nms", "bf16"), ("given", "fp32")])
def test_nothing_waits_for_the_device_before_a_pictures_regions_come(
    tmp_path: Path, folder: Path, selection: str, precision: str
) -> None:
    few = write_detector(tmp_path / "few", folder.parent / "x.pth", proposals=7, **SIZES)
    vg = detector(few, selection=selection, precision=precision, device=str(DEVICE))
    boxes = [np.array([[0.0, 0, 40, 40]])] * 2
    with OnDevice(reads=True):
        found = vg.detect_boxes(PICTURES[:2], boxes) if selection == "given" else vg.detect(PICTURES[:2])
    assert [one.features.shape[1] for one in found] == [vg.feature_width] * 2


def golden_picture() -> np.ndarray:
    i, j = np.mgrid[:300, :400]
    planes = [(i * j * (c + 2) // 97 + (i // 60) * (j // 80) * 53 + 40 * c) % 256 for c in range(3)]
    return np.stack(planes[::-1], axis=2).astype(np.uint8)  # planes are blue, green, red


@pytest.mark.full
def test_the_published_network_gives_the_published_implementations_numbers(tmp_path: Path) -> None:
    torch.save(recipe_weights(VgSizes()), tmp_path / "x.pth")
    sizes = {"shorter_side": 300, "longer_side": 400, "proposals": 60}
    vg = detector(write_detector(tmp_path / "vg", tmp_path / "x.pth", sizes=VgSizes(), **sizes), selection="max-nms")
    maps: list[Tensor] = []
    feature_map = vg._network.feature_map
    vg._network.feature_map = lambda image: maps.append(feature_map(image)) or maps[0]  # type: ignore[method-assign]
    found = vg.detect([golden_picture()])[0]
    assert maps[0].shape == (1024, 19, 25)
    assert (maps[0].mean().item(), maps[0].std().item()) == pytest.approx((3.7742, 3.5858), abs=1e-4)
    check_proposals(vg, maps[0])
    boxes = found.boxes.astype(float)
    assert boxes.sum() == pytest.approx(28184.36, abs=0.01 * 36)
    expected = [[26.15, 130.16, 337.12, 217.37], [42.31, 70.39, 400, 175.50], [182.30, 0, 400, 148.48]]
    np.testing.assert_allclose(boxes[:3], expected, atol=0.01)
    np.testing.assert_allclose(boxes[-1], [280.38, 58.11, 375.62, 300.00], atol=0.01)
    assert found.object_ids[:8].tolist() == [570] * 7 + [1554]
    assert np.bincount(found.object_ids)[[570, 1554]].tolist() == [26, 10]
    np.testing.assert_allclose(
        found.object_scores[[0, 1, 2, 3, -1]], [0.4808, 0.4703, 0.4670, 0.4613, 0.3535], atol=1e-4
    )
    assert found.object_scores.sum() == pytest.approx(14.61657, abs=1e-4)
    assert found.attribute_ids[:8].tolist() == [348] * 7 + [129]
    assert np.bincount(found.attribute_ids)[[348, 129]].tolist() == [22, 14]
    np.testing.assert_allclose(found.attribute_scores[:4], [0.13755, 0.14227, 0.14023, 0.13604], atol=1e-4)
    assert found.attribute_scores.sum() == pytest.approx(4.45557, abs=1e-4)
    features = found.features.astype(float)  # of float16: 11 bits
    assert features.mean() == pytest.approx(3.66028, rel=1e-4)
    assert features.max() == pytest.approx(30.4032, rel=2**-10)
    np.testing.assert_allclose(features[0, :4], [0.07670, 13.28256, 5.18083, 0.01038], rtol=2**-10, atol=1e-4)
    assert np.linalg.norm(features, axis=1).sum() == pytest.approx(9217.225, rel=1e-4)


def check_proposals(vg: VgDetector, feature_map: Tensor) -> None:
    """The first and the last of 60, and how many regressed boxes each threshold keeps."""
    from msp_ds.regions.detectors.vg_selection import describe, find_proposals
    from msp_ds.regions.pooling import roi_pool
    from msp_ds.regions.selection import nms

    network = vg._network
    logits, deltas, anchors = network.proposal_generator(feature_map)
    boxes, is_found = find_proposals(logits, deltas, anchors, (300, 400), most=60)
    assert is_found.all()
    np.testing.assert_allclose(boxes[0], [133.52, 58.63, 400.00, 172.10], atol=0.01)
    assert logits.max().item() == pytest.approx(2.8701, abs=1e-4)
    features = network.roi_features(roi_pool(feature_map, boxes, stride=16, size=14))
    found = describe("max-nms", boxes, is_found, network.roi_heads.box_predictor(features), (300, 400))
    kept = [len(nms(found["boxes"], found["ranks"], threshold)) for threshold in (0.3, 0.4, 0.5, 0.6, 0.7)]
    assert kept[:4] == [11, 14, 20, 31]
    assert kept[4] >= 36
