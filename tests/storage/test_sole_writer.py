"""A folder has one writer at a time, on this machine and on others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.storage import sole_writer as room
from msp_ds.storage.sole_writer import OWNER_FILE, STALE, is_being_written, sole_writer

ROOT = Path(__file__).resolve().parents[2]


def lock_elsewhere(folder: Path) -> subprocess.Popen[bytes]:
    """A process that writes into `folder`, and says so with one byte."""
    program = (
        "import sys, pathlib; from msp_ds.storage.sole_writer import sole_writer\n"
        "with sole_writer(pathlib.Path(sys.argv[1])): sys.stdout.write('+'); sys.stdout.flush(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"+"
    return process


def test_a_folder_has_one_writer_until_it_dies(tmp_path: Path) -> None:
    with lock_elsewhere(tmp_path) as other:
        told = rf"is being written by process {other.pid} on \S+; wait for it, or name another --out"
        with pytest.raises(InputError, match=told), sole_writer(tmp_path):
            pass
        assert is_being_written(tmp_path) is True
        other.kill()
    assert is_being_written(tmp_path) is False
    with sole_writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Here the owner's file would go into a file."""
    (tmp_path / "file").touch()
    told = r"cannot be written \(Not a directory\); name another --run-dir"
    with (
        pytest.raises(InputError, match=told),
        sole_writer(tmp_path, flag="--run-dir", owner_file=tmp_path / "file" / OWNER_FILE),
    ):
        pass


def test_a_folder_has_one_writer_within_a_process(tmp_path: Path) -> None:
    with sole_writer(tmp_path), pytest.raises(InputError, match="is being written by process"), sole_writer(tmp_path):
        pass


def leave_owner(folder: Path, *, seconds_ago: float, **owner: object) -> None:
    """What an owner leaves in a folder whose last sign of life was so long ago."""
    (folder / OWNER_FILE).write_text(json.dumps({"host": "node7", "pid": 12, "machine": "another", **owner}))
    os.utime(folder / OWNER_FILE, times=(time.time() - seconds_ago,) * 2)


def test_a_writer_on_another_machine_is_seen_by_its_signs_of_life(tmp_path: Path) -> None:
    leave_owner(tmp_path, seconds_ago=60)
    assert is_being_written(tmp_path) is True
    told = r"process 12 on node7 \(if that was killed, .* after 120 s\); wait for it, or name another --run-dir"
    with pytest.raises(InputError, match=told), sole_writer(tmp_path, flag="--run-dir"):
        pass
    leave_owner(tmp_path, seconds_ago=STALE + 10)
    assert is_being_written(tmp_path) is False
    with sole_writer(tmp_path):
        assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == os.getpid()


def test_a_dead_owner_of_this_machine_is_taken_over_at_once_also_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_lock", lambda descriptor, kind: None)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    leave_owner(tmp_path, seconds_ago=0, machine=room._machine(), pid=ended.pid)
    with sole_writer(tmp_path), pytest.raises(InputError, match="is being written"), sole_writer(tmp_path):
        pass


def test_an_owner_file_that_nobody_can_read_counts_as_long_as_it_is_fresh(tmp_path: Path) -> None:
    (tmp_path / OWNER_FILE).write_bytes(b"\xff{")
    with pytest.raises(InputError, match="is being written by another process"), sole_writer(tmp_path):
        pass


def test_an_owner_gives_signs_of_life_and_ends_when_another_took_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats, ended = threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(room, "BEAT", 0.01)
    monkeypatch.setattr(room.os, "_exit", lambda code: ended.set())
    touch = os.utime
    monkeypatch.setattr(room.os, "utime", lambda path: (touch(path), beats.release()))
    with sole_writer(tmp_path):
        assert beats.acquire(timeout=60)
        (tmp_path / OWNER_FILE).write_text(json.dumps({"host": "node7", "pid": 12, "token": "another"}))
        assert ended.wait(60)
    assert (tmp_path / OWNER_FILE).exists(), "it is the other's"
