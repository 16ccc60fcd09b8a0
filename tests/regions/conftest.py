"""Drawn photographs and the detector of the tests, installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import colour_cells
import pytest
from colour_cells import Write, draw

from msp_ds.data.progress import NoProgress
from msp_ds.regions import region_parts
from msp_ds.regions.region_job import RegionsJob, write_regions


@pytest.fixture(autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector `colours`, and parts of three pictures."""
    colour_cells.install(tmp_path_factory.mktemp("installed"), monkeypatch)
    monkeypatch.setattr(region_parts, "PICTURES_PER_PART", 3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photographs of different sizes: three parts."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        draw(folder / f"IMG {number}.png", number, size=(30 + number, 24))
    return folder


@pytest.fixture
def write() -> Write:
    """`msp-ds regions` without its face."""

    def run(photos: Path | list[Path], out: Path, **options: Any) -> list[str]:
        paths = [str(one) for one in (photos if isinstance(photos, list) else [photos])]
        job = RegionsJob(photos=paths, **{"detector": colour_cells.NAME, "jobs": 1, **options})
        return write_regions(job, out, progress=NoProgress())

    return run
