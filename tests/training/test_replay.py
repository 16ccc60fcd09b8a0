"""A batch that a run noted is read from the shards again and scored with the weights of its step."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from batches import assert_equal, copied
from block_site import staged
from command_line import run

from msp_ds.config import read_json, write_json
from msp_ds.curriculum import curriculum
from msp_ds.errors import InputError
from msp_ds.records import Batch, MeanMetric
from msp_ds.training.assembly.inputs import open_stage_data
from msp_ds.training.checkpointing.run_folder import RUN_FILE, read_run_card, read_run_config
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.finite import read_batch_info
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config
from msp_ds.training.pretraining_model import PretrainingModel
from msp_ds.training.replay import rebuild_step, replay
from msp_ds.training.run import train
from msp_ds.training.stage import Job

POISONED = 3
"""Of the forward passes of a run, counted from 1."""
SMALL = ("model.num_layers=1", "model.hidden_size=16", "model.num_heads=2", "model.intermediate_size=16")


def poisoned_run(
    shards: Path, folder: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, **flags: Any
) -> tuple[Path, float, Batch]:
    """The file in which a run noted a batch whose loss was made nan, the loss before that, and the batch itself."""
    forward, true, batches = PretrainingModel.forward, [], []

    def poisoned(model: PretrainingModel, batch: Batch, *arguments: Any) -> Any:
        losses = forward(model, batch, *arguments)
        if model.training:
            true.append(float(losses.total.detach()))
        if model.training and len(true) == POISONED:
            batches.append(copied(batch))
            bad = losses.total * math.nan
            return dataclasses.replace(losses, total=bad, metrics={**losses.metrics, "loss/mlm": MeanMetric.of(bad)})
        return losses

    how = Execution(precision="fp32", micro_batch=flags.pop("micro_batch", None))
    options = {"curriculum": "t", "shards": str(shards), "batch_size": 16, "max_steps": 4, **flags}
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingModel, "forward", poisoned)
        stop = StopRequest()
        config = new_config(RunOptions(**options))
        train(
            Job(
                config=config,
                execution=how,
                folder=folder,
                runtime=runtime,
                stop=stop,
                save_every=1,
                save_total_limit=9,
            )
        )
    (path,) = folder.glob("*/not-finite/*")
    return path, true[POISONED - 1], batches[0]


@pytest.fixture(scope="module")
def trained(runtime: Runtime, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """What a run noted of a batch, and the loss that it had before it was poisoned."""
    with pytest.MonkeyPatch.context() as patch:
        return poisoned_run(small_shards, tmp_path_factory.mktemp("poisoned") / "run", runtime, patch)[:2]


@pytest.fixture
def kept(trained: tuple[Path, float], tmp_path: Path) -> tuple[Path, float]:
    """The same in a copy of the run that a test may change."""
    path, true = trained
    shutil.copytree(path.parents[2], tmp_path / "run")
    return tmp_path / "run" / path.relative_to(path.parents[2]), true


def rebuilt(path: Path, shards: Path) -> Batch:
    """The noted batch, from the shards in a folder."""
    info, config = read_batch_info(path), read_run_config(path.parents[2])
    (stage,) = curriculum(config.curriculum)
    data = open_stage_data(shards, stage, max_pairs=config.max_pairs, seed=config.seed)
    return rebuild_step(info, config, stage, data).micro_batches[info.number]


def test_the_losses_are_those_of_that_step(kept: tuple[Path, float]) -> None:
    path, true = kept
    found = replay(path)
    assert found.weights.endswith("step-00000002")
    assert found.losses["loss/total"] == pytest.approx(true, rel=1e-5)
    assert math.isnan(found.info.losses["loss/mlm"])
    assert 0 < found.gradient_norm < math.inf
    assert found.faulty_inputs == ()


@pytest.mark.parametrize(
    "flags",
    [{"curriculum": "t+p+s", "micro_batch": 8}, {"curriculum": "s", "micro_batch": 4, "max_pairs": 40}],
    ids=["mixed", "subset"],
)
def test_the_batch_is_rebuilt_to_the_last_bit(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]
) -> None:
    """Each text's image, random regions and padding too, of a later forward pass of a step."""
    path, _, batch = poisoned_run(small_shards, tmp_path / "run", runtime, monkeypatch, settings=SMALL, **flags)
    assert_equal(rebuilt(path, small_shards), batch)


def test_a_batch_of_shards_that_came_block_by_block_is_rebuilt_from_the_whole_set(
    runtime: Runtime, twelve_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"curriculum": "s", "batch_size": 36, "settings": SMALL}
    with staged(twelve_tars, tmp_path / "cache") as site:
        path, _, batch = poisoned_run(site.folder, tmp_path / "run", runtime, monkeypatch, **flags)
        with pytest.raises(InputError, match=r"not all tars of \S+ are here; give a folder .*: --shards FOLDER"):
            replay(path)
    assert read_batch_info(path).num_blocks > 1
    assert_equal(rebuilt(path, twelve_tars), batch)
    assert replay(path, shards=twelve_tars).faulty_inputs == ()


def test_each_rank_has_its_slice_and_other_pairs_are_refused(kept: tuple[Path, float], small_shards: Path) -> None:
    path, info = kept[0], read_batch_info(kept[0])
    noted = read_json(path, what="what was noted")
    for rank in (0, 1):
        part = {"rank": rank, "ranks": 2, "keys": list(info.keys[8 * rank :][:8])}
        write_json(path, {**noted, **part})
        assert rebuilt(path, small_shards).keys.tolist() == part["keys"]
    write_json(path, {**noted, **part, "rank": 0})
    with pytest.raises(InputError, match="step 3 of stage token has other pairs now than when the run trained on it"):
        replay(path)


def test_the_command_shows_both_times(kept: tuple[Path, float]) -> None:
    shown = run("replay", kept[0]).stdout
    assert shown.startswith("step 3 of stage token, epoch 0, rank 0; weights of ")
    assert "(was nan)" in shown
    assert shown.endswith("the batch is valid\n")


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
    moved = tmp_path / "a" / "b" / "c" / "moved.json"
    moved.parent.mkdir(parents=True)
    moved.write_bytes(kept[0].read_bytes())
    with pytest.raises(InputError, match="is not in a run folder"):
        replay(moved)
