"""Paths are not configuration: a run continues after its shards, its parent and its own folder were moved."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refusal
from small_world import files_below, recipe_of

from msp_ds.config import write_json
from msp_ds.errors import InputError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.storage.locks import OWNER_FILE, lock_folder
from msp_ds.training.checkpointing.run_folder import RUN_FILE, find_checkpoint, read_run_card, read_run_config
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.interrupt import Interrupted, StopRequest
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config, resumed_config
from msp_ds.training.run import train
from msp_ds.training.stage import Job


def a_job(folder: Path, runtime: Runtime, **settings: object) -> Job:
    """Four steps of the token stage of the shards in `shards`, from the working directory."""
    config = new_config(RunOptions(curriculum="t", shards="shards", batch_size=16, max_steps=4, **settings))
    how: dict[str, Any] = {"execution": Execution(precision="fp32"), "runtime": runtime, "save_every": 2}
    return Job(config=config, folder=folder, stop=StopRequest(), **how)


def stopped(job: Job, *, before: bool = False) -> Path:
    """The folder of a run that was stopped after its second step, or before its first."""
    job.stop.signal = 15
    with pytest.raises(Interrupted):
        train(job)
    if before:
        shutil.rmtree(job.folder / "1-token")
    return job.folder


def resumed(job: Job, folder: Path, **flags: str) -> Path:
    """Goes on with a run of the same kind in `folder`."""
    return train(
        dataclasses.replace(job, config=resumed_config(folder, RunOptions(**flags)), folder=folder, stop=StopRequest())
    )


@pytest.fixture
def here(small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `shards`."""
    shutil.copytree(small_shards / "token", tmp_path / "shards" / "token")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_goes_on_with_its_shards_and_its_own_folder_at_other_places(here: Path, runtime: Runtime) -> None:
    job = a_job(Path("run"), runtime)
    stopped(job).rename("moved-run")
    Path("shards").rename("elsewhere")
    with pytest.raises(InputError, match=r"token/train of moved-run is not in shards; give .* with --shards"):
        resumed_config(Path("moved-run"), RunOptions())
    assert resumed(job, Path("moved-run"), shards="elsewhere").name == "step-00000004"
    assert read_run_config(Path("moved-run")).shards == "elsewhere", "the next --resume needs no flag"


def test_sets_of_another_hash_are_refused_by_name(here: Path, small_shards: Path, runtime: Runtime) -> None:
    job = a_job(Path("run"), runtime)
    stopped(job)
    build_shards(recipe_of(small_shards.parent / "world", holdout=20), stage="token", out=Path("others"))
    with pytest.raises(InputError, match=r"set token/train has changed since run was started; .* --shards FOLDER"):
        resumed(job, Path("run"), shards="others")
    assert read_run_config(Path("run")).shards == "shards"


def test_a_parent_that_was_moved_is_found_and_another_is_refused(here: Path, runtime: Runtime) -> None:
    train(a_job(Path("parent"), runtime))
    train(a_job(Path("other"), runtime, seed=1))
    job = a_job(Path("run"), runtime, init="parent")
    stopped(job, before=True)
    Path("parent").rename("moved-parent")
    old = {name: value for name, value in read_run_card(Path("run")).items() if name != "init_sha256"}
    Path("old").mkdir()
    write_json(Path("old", RUN_FILE), old)
    for run in ("run", "old"):  # the second is of a version that kept no hash of the parent
        with pytest.raises(InputError, match=rf"parent, from which {run} was started, is not there; .* with --init"):
            resumed(job, Path(run))
    with pytest.raises(InputError, match=r"other/1-token/checkpoints/step-00000004 does not hold the weights that"):
        resumed(job, Path("run"), init="other")
    resumed(job, Path("run"), init="moved-parent")
    assert find_checkpoint(Path("run")).name == "step-00000004"
    assert read_run_config(Path("run")).init == "moved-parent"


def test_a_parent_that_one_rank_lacks_is_an_error_of_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the others would wait for a rank that has ended."""
    messages: list[str] = []

    def any_error(_: Runtime, value: str) -> str:
        messages.append(value)
        return value

    for name, stand_in in {"any_error": any_error, "on_rank_zero": lambda *_: None}.items():
        monkeypatch.setattr(Runtime, name, stand_in)
    monkeypatch.setattr("msp_ds.training.run._check_same_run", lambda *_: None)
    job = a_job(Path("run"), Runtime(rank=1, world_size=2, device=torch.device("cpu")), init="nowhere")
    with pytest.raises(InputError, match="nowhere"):
        train(job)
    assert "nowhere" in messages[-1]


def test_a_run_folder_that_another_process_writes_is_refused_and_left_as_it_is(here: Path, runtime: Runtime) -> None:
    job = a_job(Path("run"), runtime)
    stopped(job)
    before = files_below(Path("run"))
    with lock_folder(Path("run")):
        with pytest.raises(InputError, match=r"run is being written by process \d+ on .*, or name another --run-dir"):
            resumed(job, Path("run"))
        assert files_below(Path("run")) == before | {OWNER_FILE}
    assert "resumed" not in read_run_card(Path("run"))


def test_a_run_without_a_parent_refuses_one_on_resume(here: Path, runtime: Runtime) -> None:
    stopped(a_job(Path("run"), runtime))
    line = refusal("train", "--resume", "--run-dir", "run", "--init", "parent")
    assert line.startswith("run was not started with --init parent; leave the flag out")
    line = refusal("finetune", "--task", "vqa", "--resume", "--run-dir", "run")
    assert line.startswith("run was not started with --curriculum vqa")
