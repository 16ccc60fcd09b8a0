"""A picture's regions are computed once, and are those that a shard set would hold."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from colour_detector import ColourDetector
from photo_site import draw_picture
from PIL import Image

from msp_ds.data.format.region_checks import LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_npz import NpzRegions
from msp_ds.regions.region_cache import RegionCache


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return draw_picture(tmp_path / "ball.png", 1)


def test_a_picture_is_detected_once_whatever_its_name(picture: Path, tmp_path: Path) -> None:
    detector = ColourDetector()
    first = RegionCache(detector, folder=tmp_path / "cache").read(picture)
    copy = picture.rename(tmp_path / "copy.png")
    again = RegionCache(detector, folder=tmp_path / "cache").read(copy)
    assert detector.num_detected == 1
    assert again.features.tobytes() == first.features.tobytes()
    assert (again.image_id, first.image_id, again.height, again.width) == (str(copy), str(picture), 64, 96)


def test_the_regions_are_those_of_the_detector(picture: Path, tmp_path: Path) -> None:
    record = RegionCache(ColourDetector(), folder=tmp_path).read(picture)
    (found,) = ColourDetector().detect([np.asarray(Image.open(picture))])
    assert record.features.dtype == np.float16
    for name in ("boxes", "features", "object_ids", "object_scores", "attribute_ids", "attribute_scores"):
        assert np.array_equal(getattr(record, name), getattr(found, name)), name
    assert record.source == f"regions by {ColourDetector().record.describe()}"


def test_another_picture_of_the_same_name_and_another_detector_are_computed(picture: Path, tmp_path: Path) -> None:
    detector, other = ColourDetector(), ColourDetector(gain=2.0)
    first = RegionCache(detector, folder=tmp_path).read(picture)
    assert not np.array_equal(RegionCache(other, folder=tmp_path).read(picture).features, first.features)
    draw_picture(picture, 2)
    assert not np.array_equal(RegionCache(detector, folder=tmp_path).read(picture).features, first.features)
    assert (detector.num_detected, other.num_detected) == (2, 1)


def test_a_damaged_file_is_computed_again(picture: Path, tmp_path: Path) -> None:
    detector = ColourDetector()
    regions = RegionCache(detector, folder=tmp_path / "cache")
    whole = regions.read(picture)
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    data = kept.read_bytes()
    for number, damaged in enumerate((b"", data[:-40], data[:300] + b"?" + data[301:], b"no archive"), start=2):
        kept.write_bytes(damaged)
        assert regions.read(picture).features.tobytes() == whole.features.tobytes()
        assert detector.num_detected == number
        assert kept.read_bytes() == data


def test_a_kept_file_is_an_archive_of_regions_with_its_detector(picture: Path, tmp_path: Path) -> None:
    record = RegionCache(ColourDetector(), folder=tmp_path / "cache").read(picture)
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    (renamed,) = [kept.rename(tmp_path / "coco-7.npz")]
    archive = NpzRegions(renamed, "coco")
    (row,) = archive.rows()
    found = archive.read(row, LabelCounts(objects=5, attributes=2)).record
    assert (row.image_id, found.features.tobytes()) == ("coco-7", record.features.tobytes())
    assert str(np.load(renamed)["detector"]) == ColourDetector().record.to_text()


def test_what_is_no_picture_or_has_no_region_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    regions = RegionCache(ColourDetector(), folder=tmp_path / "cache")
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(InputError, match=r"page\.jpg"):
        regions.read(tmp_path / "page.jpg")
    tiny = draw_picture(tmp_path / "tiny.png", 1, size=(60, 40)).with_name("strip.png")
    Image.new("RGB", (90, 3)).save(tiny)
    with pytest.raises(InputError, match=r"strip\.png has no region for colours colours \(.*\); take another picture"):
        regions.read(tiny)
    endless = RegionCache(ColourDetector(gain=float("1e9")), folder=tmp_path / "cache")
    with pytest.raises(InputError, match=r"ball\.png: colours colours \(.*\) computes features that are not finite"):
        endless.read(draw_picture(tmp_path / "ball.png", 1))
    assert not list(tmp_path.rglob("*.npz"))
    (tmp_path / "full").write_text("")
    with pytest.raises(InputError, match=r"full.* cannot be opened \(.*\); name another --cache"):
        RegionCache(ColourDetector(), folder=tmp_path / "full").read(tmp_path / "tiny.png")
    assert caplog.record_tuples == [] or caplog.records[0].levelno < logging.WARNING
