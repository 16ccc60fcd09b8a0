"""Every report is one line, written whole; a resumed run has each of them once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from msp_ds.training.monitoring.metrics_file import METRICS_FILE, MetricsFile, read_metrics


def a_file(folder: Path, *, start: int = 0) -> MetricsFile:
    return MetricsFile(folder, start=start, facts={"stage": "token"})


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder / METRICS_FILE)]


def test_a_line_holds_stage_step_epoch_and_all_scalars(tmp_path: Path) -> None:
    written = a_file(tmp_path)
    written.add(5, {"loss/mlm": 2.5, "accuracy/mlm": float("nan")}, report="validation", epoch=1.25)
    written.close()
    (line,) = (tmp_path / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert row.pop("time").endswith("+00:00")
    assert row == {
        "stage": "token",
        "report": "validation",
        "step": 5,
        "epoch": 1.25,
        "loss/mlm": 2.5,
        "accuracy/mlm": None,
    }


def test_reports_after_the_checkpoint_are_removed_and_come_again(tmp_path: Path) -> None:
    before = a_file(tmp_path)
    for step in (10, 20, 30):
        before.add(step, {"loss/mlm": 1.0}, report="training", epoch=0)
    before.close()
    after = a_file(tmp_path, start=20)
    for step in (30, 40):
        after.add(step, {"loss/mlm": 2.0}, report="training", epoch=0)
    after.close()
    assert steps(tmp_path) == [10, 20, 30, 40]
    assert [row["loss/mlm"] for row in read_metrics(tmp_path / METRICS_FILE)] == [1.0, 1.0, 2.0, 2.0]


def test_a_torn_line_is_no_report_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 10}\n{"step": 2', encoding="utf-8")
    resumed = a_file(tmp_path, start=10)
    resumed.add(20, {}, report="training", epoch=0)
    resumed.close()
    assert steps(tmp_path) == [10, 20]


def test_what_was_reported_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from msp_ds.training.monitoring.metrics_file import MetricsFile\n"
        f"written = MetricsFile(Path({str(tmp_path)!r}), start=0, facts={{}})\n"
        "for step in range(100): written.add(step, {'loss/mlm': 1.0}, report='training', epoch=0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert steps(tmp_path) == list(range(100))


def test_a_full_disk_is_warned_of_once_and_later_reports_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written, write = a_file(tmp_path), os.write

    def full(descriptor: int, line: bytes) -> int:
        write(descriptor, line[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    written.add(10, {}, report="training", epoch=0)
    written.add(20, {}, report="training", epoch=0)
    monkeypatch.setattr(os, "write", write)
    written.add(30, {}, report="training", epoch=0)
    written.close()
    assert steps(tmp_path) == [30]
    assert caplog.text.count("No space left on device") == 1
