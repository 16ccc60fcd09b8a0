"""Raw files small enough to work by hand, fresh for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_files import RawFolder


@pytest.fixture
def raw(tmp_path: Path) -> RawFolder:
    """Six images with captions, phrases, labels and look-alikes."""
    return RawFolder.write(tmp_path / "raw")


@pytest.fixture
def real_data() -> Path:
    """Samples of the real data sets, which lie beside a developer's checkout."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real samples are not beside this checkout")
    return folder
