"""Folders that appear whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from msp_ds.data import durable
from msp_ds.data.durable import replace_folder, sole_writer
from msp_ds.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


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


def lock_elsewhere(folder: Path) -> subprocess.Popen[bytes]:
    """A process that writes into `folder`, and says so with one byte."""
    program = (
        "import sys, pathlib; from msp_ds.data.durable import sole_writer\n"
        "with sole_writer(pathlib.Path(sys.argv[1])): sys.stdout.write('+'); sys.stdout.flush(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"+"
    return process


def test_a_folder_has_one_writer_until_it_dies(tmp_path: Path) -> None:
    with lock_elsewhere(tmp_path) as other:
        told = r"another process is writing into .*; wait for it or name another --out"
        with pytest.raises(InputError, match=told), sole_writer(tmp_path):
            pass
        other.kill()
    with sole_writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_writer_within_a_process(tmp_path: Path) -> None:
    with sole_writer(tmp_path), pytest.raises(InputError, match="another process"), sole_writer(tmp_path):
        pass
