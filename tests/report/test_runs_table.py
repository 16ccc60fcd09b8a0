"""The table of runs, from files written by hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from msp_ds.config import OptimConfig, RunConfig, to_json, write_json
from msp_ds.errors import InputError
from msp_ds.presets import get_preset
from msp_ds.report.runs import run_lines, runs_table
from msp_ds.storage.locks import lock_folder
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE
from msp_ds.training.monitoring.metrics_file import METRICS_FILE

CONFIG = RunConfig(
    curriculum="ts",
    preset="tiny",
    model=get_preset("tiny").model,
    optim=OptimConfig(),
    schedule=get_preset("tiny").schedule,
    shards="shards",
    vocabulary_sha256="0",
)


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / RUN_FILE, {"config": to_json(CONFIG)})
    return folder


def finished(stage: Path, steps: int) -> None:
    stage.mkdir(exist_ok=True)
    write_json(stage / STAGE_FILE, {"steps": steps, "checkpoint": f"step-{steps:08d}"})


def reports(stage: Path, *rows: dict[str, Any]) -> None:
    stage.mkdir(exist_ok=True)
    lines = [json.dumps({"num_steps": 40, "report": "training", **row}) for row in rows]
    (stage / METRICS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_run_in_its_second_stage_shows_its_progress_and_its_best_validation(tmp_path: Path) -> None:
    run = a_run(tmp_path / "one")
    finished(run / "1-token", 100)
    validations = [{"step": 10 * number, "report": "validation", "loss/total": loss} for number, loss in VALIDATED]
    reports(run / "2-sentence", *validations, {"step": 35, "loss/total": 0.1})
    with lock_folder(run):
        (line,) = run_lines(tmp_path)
    assert (line.name, line.curriculum, line.preset, line.stage) == ("one", "ts", "tiny", "sentence")
    assert (line.step, line.num_steps, line.state) == (35, 40, "running")
    assert (line.best, line.best_step) == (2.5, 20)
    assert run_lines(tmp_path)[0].state == "stopped", "its process is gone"


VALIDATED = ((1, 4.0), (2, 2.5), (3, None))


def test_a_run_that_cannot_be_opened_is_left_out_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder, closed = os.open, a_run(tmp_path / "two")
    a_run(tmp_path / "one")
    monkeypatch.setattr(os, "open", lambda path, flags: open_folder(path if path != closed else "/nowhere", flags))
    assert [line.name for line in run_lines(tmp_path)] == ["one"]


def test_a_run_all_of_whose_stages_are_finished_is_finished(tmp_path: Path) -> None:
    run = a_run(tmp_path / "one")
    finished(run / "1-token", 100)
    finished(run / "2-sentence", 40)
    (line,) = run_lines(tmp_path)
    assert (line.state, line.stage, line.step, line.num_steps) == ("finished", "sentence", 40, 40)


def test_a_run_without_metrics_is_read_from_its_checkpoints(tmp_path: Path) -> None:
    run = a_run(tmp_path / "one")
    saved = run / "1-token" / "checkpoints" / "step-00000030"
    saved.mkdir(parents=True)
    write_json(saved / "manifest.json", {"step": 30, "files": {}, "state": {"num_steps": 60}, "loss_scale": None})
    (line,) = run_lines(run)
    assert (line.name, line.stage, line.step, line.num_steps) == ("one", "token", 30, 60)
    assert math.isnan(line.best)


def test_the_run_that_changed_last_is_at_the_end_and_a_broken_one_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, age in (("new", 10), ("old", 7200)):
        run = a_run(tmp_path / "sub" / name)
        os.utime(run / RUN_FILE, (10_000 - age, 10_000 - age))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / RUN_FILE).write_text("{", encoding="utf-8")
    table = runs_table(tmp_path, now=lambda: 10_000)
    assert list(table.columns[0].cells) == ["sub/old", "sub/new"]
    assert list(table.columns[7].cells) == ["2 h ago", "now"]
    assert "broken is left out" in caplog.text


def test_no_run_is_an_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start one with: msp-ds train"):
        run_lines(tmp_path / "none")


def test_a_run_behind_a_link_is_listed(tmp_path: Path) -> None:
    a_run(tmp_path / "disk" / "one")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "disk")
    assert [line.name for line in run_lines(tmp_path / "runs")] == ["linked/one"]
