"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from msp_ds.data import durable
from msp_ds.data.durable import replace_folder, sweep_stale, temporary_sibling


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


def test_what_the_dead_left_is_swept_and_what_the_living_prepare_stays(tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    dead = tmp_path / f".train.tmp-{int(gone.stdout)}"
    living = tmp_path / f".train.tmp-{os.getppid()}"
    other = tmp_path / f".val.tmp-{int(gone.stdout)}"
    for folder in (dead, living, other, temporary_sibling(tmp_path / "train")):
        folder.mkdir()
    sweep_stale(tmp_path / "train")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.name, other.name])
