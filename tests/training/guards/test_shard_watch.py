"""Shards that change during a run are an error; those that were written again unchanged are a warning."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from msp_ds.curriculum import curriculum
from msp_ds.data.format.shards import open_set
from msp_ds.errors import ShardError
from msp_ds.training.assembly.inputs import open_stage_data
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.guards.shard_watch import ShardWatch
from msp_ds.training.loop import StageLoop
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config
from msp_ds.training.stage import Job, train_stage

STAGE = curriculum("t")[0]


@pytest.fixture
def shards(small_shards: Path, tmp_path: Path) -> Path:
    """Shards of this test's own."""
    return Path(shutil.copytree(small_shards, tmp_path / "shards"))


def test_what_stays_is_no_fault(shards: Path) -> None:
    assert ShardWatch([open_set(shards / "token" / "train")]).fault() == ""


def test_a_tar_of_another_size_is_a_fault(shards: Path) -> None:
    one = open_set(shards / "token" / "train")
    watch = ShardWatch([one])
    with one.shard_paths[0].open("ab") as tar:
        tar.write(b"more")
    assert watch.fault().startswith(f"{one.shard_paths[0]} has changed since this run began to read it; bring back ")


def test_a_tar_that_went_is_a_fault(shards: Path) -> None:
    one = open_set(shards / "token" / "train")
    watch = ShardWatch([one])
    one.shard_paths[0].unlink()
    assert watch.fault().startswith(f"{one.shard_paths[0]} is gone since this run began to read it")


def test_another_index_of_the_same_size_is_a_fault(shards: Path) -> None:
    one = open_set(shards / "token" / "train")
    watch = ShardWatch([one])
    index = one.path / "index.json"
    index.write_text(index.read_text().replace('"extractor": "tests"', '"extractor": "other"'))
    assert watch.fault().startswith(f"{index} has changed")


def test_files_that_were_written_again_unchanged_are_warned_about_once(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = open_set(shards / "token" / "train")
    watch = ShardWatch([one])
    for path in (one.shard_paths[0], one.path / "index.json"):
        os.utime(path, (1e9, 1e9))
    assert watch.fault() == watch.fault() == ""
    assert len(caplog.messages) == 2
    assert "was written again while this run reads it" in caplog.messages[0]


def a_job(shards: Path, folder: Path, runtime: Runtime, *, batch_size: int = 16) -> Job:
    settings = {"curriculum": "t", "shards": str(shards), "batch_size": batch_size, "max_steps": 8}
    return Job(
        config=new_config(RunOptions(**settings)),
        execution=Execution(precision="fp32"),
        folder=folder,
        runtime=runtime,
        stop=StopRequest(),
    )


def test_a_run_ends_at_the_epoch_after_which_its_shards_changed_and_goes_on_when_they_are_back(
    runtime: Runtime, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = a_job(shards, tmp_path / "run", runtime), tmp_path / "run" / "1-token"
    data = open_stage_data(shards, STAGE)
    tar = data.train[0].shard_paths[0]
    whole, validate = tar.read_bytes(), StageLoop.validate

    def meanwhile(loop: StageLoop, done: int) -> dict[str, float]:
        tar.write_bytes(whole + b"more")
        return validate(loop, done)

    with monkeypatch.context() as patch:
        patch.setattr(StageLoop, "validate", meanwhile)
        with pytest.raises(
            ShardError, match=r"000000.tar has changed since .* bring back .*, then --resume \(step 4 is saved\)"
        ):
            train_stage(job, STAGE, data, folder=folder, start_from=None)
    tar.write_bytes(whole)
    train_stage(job, STAGE, open_stage_data(shards, STAGE), folder=folder, start_from=None)
    assert (folder / "stage.json").is_file()


def test_changed_bytes_are_found_when_they_are_read_and_explained(
    runtime: Runtime, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dataclasses.replace(a_job(shards, tmp_path / "run", runtime, batch_size=8), save_every=1)
    data = open_stage_data(shards, STAGE)
    tar, report = data.train[0].shard_paths[0], StageLoop._report

    def meanwhile(loop: StageLoop, *values: object) -> None:
        tar.write_bytes(bytes(100))
        report(loop, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(StageLoop, "_report", meanwhile)
    with pytest.raises(ShardError, match=r"000000.tar has changed since .*, then --resume \(.*checksum"):
        train_stage(job, STAGE, data, folder=tmp_path / "run" / "1-token", start_from=None)
