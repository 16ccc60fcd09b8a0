"""Folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from msp_ds.storage import durable
from msp_ds.storage.durable import replace_folder


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    for content in ("old", "new"):
        prepared = tmp_path / "prepared"
        prepared.mkdir()
        (prepared / content).touch()
        replace_folder(prepared, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]
