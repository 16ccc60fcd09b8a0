"""A folder has one writer at a time, on this machine and on others."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.storage import locks
from msp_ds.storage.locks import OWNER_FILE, STALE_SECONDS, is_being_written, lock_folder

ROOT = Path(__file__).resolve().parents[2]


def lock_elsewhere(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that locks `folder`, and wait for the byte that it writes then."""
    program = (
        "import sys, pathlib; from msp_ds.storage.locks import lock_folder\n"
        "with lock_folder(pathlib.Path(sys.argv[1])): sys.stdout.write('+'); sys.stdout.flush(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"+"
    return process


def test_a_folder_has_one_writer_until_it_dies(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "if_missing"
    with lock_elsewhere(folder) as other:
        message = rf"is being written by process {other.pid} on \S+; wait for it, or name another --out"
        with pytest.raises(InputError, match=message), lock_folder(folder):
            pass
        assert is_being_written(folder) is True
        other.kill()
    assert is_being_written(folder) is False
    with lock_folder(folder):
        pass
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Here the owner's file would go into a file."""
    (tmp_path / "file").touch()
    message = r"cannot be written \(Not a directory\); name another --run-dir"
    with (
        pytest.raises(InputError, match=message),
        lock_folder(tmp_path, flag="--run-dir", owner_file=tmp_path / "file" / OWNER_FILE),
    ):
        pass


def test_a_folder_has_one_writer_within_a_process(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(InputError, match="is being written by process"), lock_folder(tmp_path):
        pass


def leave_owner(folder: Path, *, seconds_ago: float, **owner: object) -> None:
    """Leave the file of an owner who renewed it so many seconds ago."""
    (folder / OWNER_FILE).write_text(json.dumps({"host": "node7", "pid": 12, "machine": "another", **owner}))
    os.utime(folder / OWNER_FILE, times=(time.time() - seconds_ago,) * 2)


def test_a_writer_on_another_machine_is_seen_by_the_renewals_of_its_file(tmp_path: Path) -> None:
    leave_owner(tmp_path, seconds_ago=60)
    assert is_being_written(tmp_path) is True
    message = r"process 12 on node7 \(if that was killed, .* after 120 s\); wait for it, or name another --run-dir"
    with pytest.raises(InputError, match=message), lock_folder(tmp_path, flag="--run-dir"):
        pass
    leave_owner(tmp_path, seconds_ago=STALE_SECONDS + 10)
    assert is_being_written(tmp_path) is False
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == os.getpid()


def test_a_dead_owner_of_this_machine_is_taken_over_at_once_also_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_lock", lambda descriptor: None)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    leave_owner(tmp_path, seconds_ago=0, machine=locks._machine(), pid=ended.pid)
    with lock_folder(tmp_path), pytest.raises(InputError, match="is being written"), lock_folder(tmp_path):
        pass


def test_an_unreadable_owner_file_counts_while_it_is_recent(tmp_path: Path) -> None:
    (tmp_path / OWNER_FILE).write_bytes(b"\xff{")
    with pytest.raises(InputError, match="is being written by another process"), lock_folder(tmp_path):
        pass


def test_an_owner_renews_its_file_and_ends_when_another_took_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewals, ended = threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(locks, "RENEWAL_SECONDS", 0.01)
    monkeypatch.setattr(locks.os, "_exit", lambda code: ended.set())
    touch = os.utime
    monkeypatch.setattr(locks.os, "utime", lambda path: (touch(path), renewals.release()))
    with lock_folder(tmp_path):
        assert renewals.acquire(timeout=60)
        (tmp_path / OWNER_FILE).write_text(json.dumps({"host": "node7", "pid": 12, "token": "another"}))
        assert ended.wait(60)
    assert (tmp_path / OWNER_FILE).exists(), "it is the other's"


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOLCK])
def test_who_waits_for_a_lock_does_not_go_on_without_it(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match=os.strerror(code)):
        locks.lock_file(file, wait=True)
