"""A run of another version, or one that was edited, is refused in one line that says how to train it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msp_ds.config import OptimConfig, RunConfig, to_json
from msp_ds.curriculum import curriculum
from msp_ds.errors import InputError
from msp_ds.presets import get_preset
from msp_ds.training.checkpointing.checkpoint import read_manifest
from msp_ds.training.checkpointing.run_folder import (
    check_same_data,
    find_checkpoint,
    read_finished,
    read_run_card,
    read_run_config,
    read_run_execution,
    stage_checkpoint,
)
from msp_ds.training.engine.execution import Execution
from msp_ds.training.planning import cache_of

TINY = get_preset("tiny")
CONFIG = RunConfig(
    curriculum="s",
    preset="tiny",
    model=TINY.model,
    optim=OptimConfig(),
    schedule=TINY.schedule,
    shards="shards",
    vocabulary_sha256="0",
)
RUN = {"config": to_json(CONFIG), "execution": to_json(Execution(precision="fp32")), "index_sha256": {"s/train": "0"}}
STAGE = {"stage": "sentence", "steps": 4, "checkpoint": "step-00000004", "validation": {"loss/total": None}}
MANIFEST = {"step": 4, "files": {}, "state": {}, "loss_scale": None}


def read_all(run: Path) -> None:
    """Read everything that commands read of a run's files."""
    read_run_config(run)
    read_run_execution(run)
    check_same_data(run, {"s/train": "0"})
    cache_of(None, None, resumed=run)
    stage = run / "1-sentence"
    assert stage_checkpoint(stage) == stage / "checkpoints" / "step-00000004"
    read_manifest(stage_checkpoint(stage))
    read_finished(stage)


def write(run: Path, changed: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A run whose file `changed` is changed."""
    saved = run / "1-sentence" / "checkpoints" / "step-00000004"
    saved.mkdir(parents=True)
    files = {run / "run.json": RUN, run / "1-sentence" / "stage.json": STAGE, saved / "manifest.json": MANIFEST}
    for path, value in files.items():
        value = json.loads(json.dumps(value))
        path.write_text(json.dumps(change(value) if path.name == changed else value))
    return run


def without(*keys: str) -> Callable[[dict[str, Any]], Any]:
    def change(value: dict[str, Any]) -> Any:
        table = value
        for key in keys[:-1]:
            table = table[key]
        del table[keys[-1]]
        return value

    return change


def also(**more: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda value: {**value, **more}


CHANGES = {
    "run without config": ("run.json", without("config"), "has no config"),
    "run without execution": ("run.json", without("execution"), "has no execution"),
    "config without a key": ("run.json", without("config", "preset"), "missing key preset"),
    "config of a later version": ("run.json", also(config={**RUN["config"], "pacing": 1}), "unknown key pacing"),
    "execution of a later version": ("run.json", also(execution={"precision": "fp8"}), "'fp8' is none of"),
    "hashes as a list": ("run.json", also(index_sha256=["0"]), "expected a table"),
    "resumed as a number": ("run.json", also(resumed=3), "holds something other than tables in `resumed`"),
    "resumed as numbers": ("run.json", also(resumed=[3]), "holds something other than tables in `resumed`"),
    "a list for a run": ("run.json", lambda value: [value], "but is not a table"),
    "stage without checkpoint": ("stage.json", without("checkpoint"), "missing key checkpoint"),
    "stage without steps": ("stage.json", without("steps"), "missing key steps"),
    "steps as a text": ("stage.json", also(steps="4"), "steps: expected int"),
    "a list for a stage": ("stage.json", lambda value: [value], "expected a table"),
    "a checkpoint outside": ("stage.json", also(checkpoint="../../else"), "'../../else', which is not the name"),
    "the folder above": ("stage.json", also(checkpoint=".."), "'..', which is not the name"),
    "manifest without files": ("manifest.json", without("files"), "is not a manifest of this version"),
    "a file outside": ("manifest.json", also(files={"../a": {"bytes": 1, "sha256": ""}}), "outside its folder"),
}


@pytest.mark.parametrize(("file", "change", "fault"), CHANGES.values(), ids=CHANGES)
def test_a_run_of_another_version_is_refused_with_a_fix(
    tmp_path: Path, file: str, change: Callable[[dict[str, Any]], Any], fault: str
) -> None:
    run = write(tmp_path / "run", file, change)
    with pytest.raises(InputError) as refused:
        read_all(run)
    message = str(refused.value)
    assert file in message
    assert fault in message
    assert "another version" in message or "msp-ds train" in message
    assert "\n" not in message


def test_a_schedule_without_a_row_for_its_stage_is_one_line() -> None:
    (stage,) = curriculum("s")
    with pytest.raises(InputError, match="the schedule has no row for sentence; it has token"):
        stage.schedule({"token": TINY.schedule["token"]})


def test_a_run_of_this_version_is_read(tmp_path: Path) -> None:
    read_all(write(tmp_path / "run", "", dict))
    assert read_run_card(tmp_path / "run")["index_sha256"] == {"s/train": "0"}


@pytest.mark.parametrize("name", ["../..", "..", "/etc", "", "a\nb/c"])
def test_a_pointer_to_the_best_checkpoint_leads_to_one_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "best").write_text(f"{name}\n")
    with pytest.raises(InputError, match="which is not the name of a checkpoint beside it"):
        find_checkpoint(tmp_path / "best")
