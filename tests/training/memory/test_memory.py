"""The number of pairs that fit is found by trial, agreed on by all ranks and named when memory runs out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import TASKS, a_batch, a_learner

from msp_ds.curriculum import curriculum
from msp_ds.errors import InputError
from msp_ds.training.assembly.inputs import open_stage_data
from msp_ds.training.checkpointing.checkpoint import checkpoints, read_manifest
from msp_ds.training.checkpointing.run_folder import STAGE_FILE
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.memory import memory
from msp_ds.training.memory.memory import (
    a_pass_fits,
    bytes_beside_trial,
    divisors,
    state_bytes,
)
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import AUTO, new_config, with_micro_batch
from msp_ds.training.pretraining_model import PretrainingModel
from msp_ds.training.stage import Job, train_stage

STAGE = curriculum("t")[0]
FP32 = Execution(precision="fp32")


def full(monkeypatch: pytest.MonkeyPatch, *, above: int, after: int = 0) -> None:
    """A device that has no memory for batches of more than `above` pairs, after so many that fitted."""
    forward, count = PretrainingModel.forward, []

    def limited(model: PretrainingModel, batch: Any, *arguments: Any) -> Any:
        count.append(None)
        if model.training and len(batch.keys) > above and len(count) > after:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(model, batch, *arguments)

    monkeypatch.setattr(PretrainingModel, "forward", limited)


def a_job(shards: Path, folder: Path, runtime: Runtime, **changes: Any) -> Job:
    settings = {"curriculum": "t", "shards": str(shards), "batch_size": 16, "max_steps": 4}
    job = Job(
        config=new_config(RunOptions(**settings)), execution=FP32, folder=folder, runtime=runtime, stop=StopRequest()
    )
    return dataclasses.replace(job, save_every=1, **changes)


def trained(job: Job) -> Path:
    folder = job.folder / "1-token"
    train_stage(job, STAGE, open_stage_data(job.shards, STAGE), folder=folder, start_from=None)
    return folder


def test_divisors_are_listed_from_the_largest() -> None:
    assert divisors(12) == [12, 6, 4, 3, 2, 1]


def test_a_pass_that_does_not_fit_is_no_error_and_leaves_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, above=4)
    model = a_learner()
    found = [a_pass_fits(model, a_batch(0, pairs=pairs), TASKS, precision="fp32") for pairs in (4, 5)]
    assert found == [True, False]
    assert all(weight.grad is None for weight in model.parameters())


ZERO = Execution(precision="bf16", zero_stage=2, bucket_elements=10)


@pytest.mark.parametrize(
    ("execution", "ranks", "held", "beside"),
    [
        # weights, gradients and two moments of 4 bytes for 100 weights
        (FP32, 1, 1600, 800),
        (FP32, 2, 1600, 800),
        (Execution(precision="fp16"), 1, 1800, 800),
        # 2 bytes for weights and gradients; fp32 weights and moments split; a bucket of 2 bytes, or two of them
        (ZERO, 1, 400 + 1200 + 20, 620),
        (ZERO, 2, 400 + 600 + 20, 20),
        (dataclasses.replace(ZERO, overlap=True), 2, 400 + 600 + 40, 40),
        (dataclasses.replace(ZERO, offload_optimizer=True), 2, 400 + 20, 0),
        (dataclasses.replace(ZERO, precision="fp32"), 2, 800 + 600 + 40, 640),
    ],
)
def test_the_memory_of_the_engine_is_predicted(execution: Execution, ranks: int, held: int, beside: int) -> None:
    assert state_bytes(execution, 100, world_size=ranks) == held
    assert bytes_beside_trial(execution, 100, world_size=ranks) == beside


def test_a_step_that_does_not_fit_names_a_batch_that_does_and_leaves_the_checkpoint(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, above=5, after=2)
    with pytest.raises(
        InputError,
        match=r"out of GPU memory with 16 pairs a forward pass .*; 4 fit: give --micro-batch 4, or --micro-batch auto; "
        "the last checkpoint stays: go on with --resume",
    ):
        trained(a_job(small_shards, tmp_path, runtime))
    assert [path.name for path in checkpoints(tmp_path / "1-token" / "checkpoints")][-1] == "step-00000002"
    again = a_job(small_shards, tmp_path, runtime, execution=dataclasses.replace(FP32, micro_batch=4))
    assert (trained(again) / STAGE_FILE).is_file()


def test_where_nothing_fits_the_fix_is_another_execution(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, above=0)
    with pytest.raises(InputError, match=r"no smaller number fits either: take --ds-config \S+zero2_offload.json"):
        trained(a_job(small_shards, tmp_path, runtime))


def test_with_zero_half_is_advised_without_a_trial(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, above=5)
    way = Execution(precision="fp32", zero_stage=1)
    with pytest.raises(InputError, match=r"; give --micro-batch 8 or less, or --micro-batch auto; "):
        trained(a_job(small_shards, tmp_path, runtime, execution=way))


def test_on_a_cpu_auto_is_the_whole_batch(runtime: Runtime, small_shards: Path, tmp_path: Path) -> None:
    folder = trained(a_job(small_shards, tmp_path, runtime, fits_micro_batch=True))
    last = checkpoints(folder / "checkpoints")[-1]
    assert read_manifest(last).state["execution"]["micro_batch"] == 16


@pytest.mark.parametrize(("above", "expected"), [(16, 16), (15, 8), (3, 2), (1, 1)])
def test_a_trial_finds_what_fits(
    runtime: Runtime,
    small_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    above: int,
    expected: int,
) -> None:
    full(monkeypatch, above=above)
    properties = type("Properties", (), {"total_memory": 1000, "name": "a card"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(memory, "has_own_memory", lambda runtime: True)
    folder = trained(a_job(small_shards, tmp_path, runtime, fits_micro_batch=True))
    last = checkpoints(folder / "checkpoints")[-1]
    assert read_manifest(last).state["execution"]["micro_batch"] == expected


@pytest.mark.parametrize("value", ["0.5", "many", "-4"])
def test_a_micro_batch_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=f"--micro-batch {value} is not a number of pairs; write 16, or auto"):
        with_micro_batch(("cpu_fp32", FP32), value)


def test_the_flag_replaces_the_key() -> None:
    assert with_micro_batch(("cpu_fp32", FP32), None) == ("cpu_fp32", FP32)
    assert with_micro_batch(("cpu_fp32", FP32), AUTO) == ("cpu_fp32", FP32)
    name, execution = with_micro_batch(("cpu_fp32", FP32), "8")
    assert (name, execution.micro_batch) == ("cpu_fp32 in micro batches of 8", 8)
