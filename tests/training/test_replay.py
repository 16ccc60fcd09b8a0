"""A batch that a run kept is looked at again with the weights it met."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from command_line import run

from msp_ds.config import write_json
from msp_ds.errors import InputError
from msp_ds.records import MeanMetric
from msp_ds.training.checkpointing.run_folder import RUN_FILE, read_run_card
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.planning import new_config
from msp_ds.training.pretraining_model import PretrainingModel
from msp_ds.training.replay import replay
from msp_ds.training.run import train
from msp_ds.training.stage import Job

POISONED = 3
"""Of the run's steps, counted from 1."""


@pytest.fixture
def kept(runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, float]:
    """The batch that a run kept, and the loss that it had before it was poisoned."""
    forward, true = PretrainingModel.forward, []

    def poisoned(model: PretrainingModel, *arguments: Any) -> Any:
        losses = forward(model, *arguments)
        if model.training:
            true.append(float(losses.total.detach()))
        if model.training and len(true) == POISONED:
            bad = losses.total * math.nan
            return dataclasses.replace(losses, total=bad, metrics={**losses.metrics, "loss/moc": MeanMetric.of(bad)})
        return losses

    given = {"curriculum": "t", "shards": str(small_shards), "batch_size": 16, "max_steps": 4}
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingModel, "forward", poisoned)
        train(
            Job(
                config=new_config(given),
                execution=Execution(precision="fp32"),
                folder=tmp_path / "run",
                runtime=runtime,
                stop=StopRequest(),
                save_every=1,
                keep=9,
            )
        )
    (path,) = (tmp_path / "run" / "1-token" / "not-finite").iterdir()
    return path, true[POISONED - 1]


def test_the_losses_are_those_of_that_step(kept: tuple[Path, float]) -> None:
    path, true = kept
    found = replay(path)
    assert found.weights.endswith("step-00000002")
    assert found.losses["loss/total"] == pytest.approx(true, rel=1e-5)
    assert math.isnan(found.info.losses["loss/moc"])
    assert 0 < found.gradient_norm < math.inf
    assert found.faulty_inputs == ()


def test_the_command_shows_both_times(kept: tuple[Path, float]) -> None:
    shown = run("replay", kept[0]).stdout
    assert shown.startswith("step 3 of stage token, epoch 0, rank 0; weights of ")
    assert "(was nan)" in shown
    assert shown.endswith("the batch is sound\n")


def test_shards_that_were_moved_are_named_with_a_flag_and_compared(
    kept: tuple[Path, float], small_shards: Path, tmp_path: Path
) -> None:
    path, true = kept
    card = read_run_card(tmp_path / "run")
    card["config"]["shards"] = "gone"
    write_json(tmp_path / "run" / RUN_FILE, card)
    with pytest.raises(InputError, match=r"token/train of \S+run is not in gone; .* --shards"):
        replay(path)
    assert replay(path, shards=small_shards).losses["loss/total"] == pytest.approx(true, rel=1e-5)
    card["index_sha256"]["token/val"] = "another"
    write_json(tmp_path / "run" / RUN_FILE, card)
    with pytest.raises(InputError, match=r"shard set token/val has changed since \S+run was started"):
        replay(path, shards=small_shards)


def test_a_batch_that_left_its_run_is_refused(kept: tuple[Path, float], tmp_path: Path) -> None:
    moved = tmp_path / "a" / "b" / "c" / "moved.safetensors"
    moved.parent.mkdir(parents=True)
    moved.write_bytes(kept[0].read_bytes())
    with pytest.raises(InputError, match="lies in no run folder"):
        replay(moved)
