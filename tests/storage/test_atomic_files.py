"""Folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from msp_ds.storage import atomic_files
from msp_ds.storage.atomic_files import replacing_folder


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    for content in ("old", "new"):
        prepared = tmp_path / "prepared"
        prepared.mkdir()
        with replacing_folder(tmp_path / "target", prepared):
            (prepared / content).touch()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]


def test_a_folder_stays_when_its_replacement_fails(tmp_path: Path) -> None:
    target, prepared = tmp_path / "target", tmp_path / "prepared"
    target.mkdir()
    prepared.mkdir()
    (prepared / "half").touch()
    with pytest.raises(FileNotFoundError), replacing_folder(target, prepared):
        (prepared / "missing").read_bytes()
    assert list(tmp_path.iterdir()) == [target]
    assert list(target.iterdir()) == []
