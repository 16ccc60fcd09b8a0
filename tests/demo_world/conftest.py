"""A small world that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from msp_ds.demo_world import make_world
from msp_ds.demo_world.scenes import Scene, draw_scene

SEED, IMAGES, WIDTH = 7, 48, 64


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world of 48 images, 64 wide."""
    out = tmp_path_factory.mktemp("small") / "world"
    make_world(out, images=IMAGES, seed=SEED, feature_width=WIDTH)
    return out


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """300 scenes of the same world."""
    return [draw_scene(SEED, number) for number in range(300)]
