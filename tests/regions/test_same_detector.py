"""Pictures join regions that are known only through the detector that computed those."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
from colour_detector import ColourDetector

from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectorOptions
from msp_ds.regions.same_detector import open_detector, options_of

RECORD = ColourDetector().record
RUN = Path("runs/tps")


@pytest.fixture
def offered(photo_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detectors of the site are installed."""
    monkeypatch.syspath_prepend(photo_site / "detectors")


def opened(detector: str | ColourDetector | None, known: DetectorRecord | None) -> object:
    return open_detector(detector, known={RUN: None, Path("shards/s"): known}, feature_width=16, device="cpu")


def test_the_record_says_how_the_detector_is_opened() -> None:
    settings = {"regions": "24", "selection": "max-nms", "features": "both", "precision": "bf16", "resizer": "pillow"}
    record = dataclasses.replace(RECORD, settings=settings)
    wanted = DetectorOptions(regions=24, selection="max-nms", features="both", precision="bf16", device="cuda:1")
    assert options_of(record, device="cuda:1") == wanted
    foreign = dataclasses.replace(RECORD, settings={"regions": "all", "selection": "by hand"})
    assert options_of(foreign, device="cpu") == options_of(None, device="cpu") == DetectorOptions()


def test_a_detector_of_the_same_record_is_accepted_under_any_name() -> None:
    detector = ColourDetector()
    assert opened(detector, dataclasses.replace(RECORD, name="elsewhere", versions={"numpy": "1"})) is detector


def test_another_detector_of_equal_width_is_refused_and_both_are_named() -> None:
    wrong = ColourDetector(gain=2.0)
    with pytest.raises(InputError) as refused:
        opened(wrong, RECORD)
    message = str(refused.value)
    assert message.startswith(f"shards/s has regions of {RECORD.describe()}")
    assert wrong.record.describe() in message
    with pytest.raises(InputError, match=r"shards/s has regions of .*regions 12.*, not of .*regions 20"):
        opened(ColourDetector(regions=20), RECORD)


def test_a_detector_is_opened_by_its_name_as_the_record_says(offered: None) -> None:
    assert opened("colours", RECORD).record == RECORD  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="; name the former with --detector"):
        opened("bright", RECORD)


def test_without_a_name_the_one_on_record_is_taken(offered: None) -> None:
    assert opened(None, RECORD).record == RECORD  # type: ignore[attr-defined]


def test_a_detector_that_is_not_here_is_named() -> None:
    record = dataclasses.replace(RECORD, name="missing")
    with pytest.raises(InputError, match=r"shards/s are from colours missing \(.*\): --detector FOLDER"):
        opened(None, record)
    with pytest.raises(InputError, match=r"runs/tps does not say which detector .*; name it: --detector FOLDER"):
        opened(None, None)


def test_where_no_detector_is_on_record_the_width_decides(caplog: pytest.LogCaptureFixture) -> None:
    detector = ColourDetector()
    with caplog.at_level(logging.WARNING):
        assert opened(detector, None) is detector
    assert "runs/tps does not say which detector its regions are from: only their width is compared" in caplog.text
    with pytest.raises(InputError, match=r"runs/tps reads 16 numbers a region, .* gives 32; name its detector"):
        opened(ColourDetector(width=32), None)
