"""Fixtures that tests of several folders share; their helpers lie in support/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores run: more threads than one each would wait for each other. Set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from fake_gpu import gpu as gpu
from looking_site import make_site
from photo_site import make_photo_site
from raw_files import RawFolder
from small_world import write_shards, write_twelve_tars


@pytest.fixture
def float64() -> Iterator[None]:
    """Makes float64 the default type, in which two ways to compute one thing agree on every processor."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of a small world, all stages; shared, so to be read only."""
    return write_shards(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def twelve_tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the sentence stage in twelve tars; shared, so to be read only."""
    return write_twelve_tars(tmp_path_factory.mktemp("twelve"))


@pytest.fixture(scope="session")
def looking_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and weights folders of untrained models as support/looking_site.py says; shared, so to be read only."""
    return make_site(tmp_path_factory.mktemp("looking"))


@pytest.fixture(scope="session")
def photo_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with shards and models of them as support/photo_site.py says; shared, so to be read only."""
    return make_photo_site(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def raw(tmp_path: Path) -> RawFolder:
    """Six images with captions, phrases, labels and hard negatives."""
    return RawFolder.write(tmp_path / "raw")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Samples of the real data sets, which lie beside a developer's checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real samples are not beside this checkout")
    return folder
