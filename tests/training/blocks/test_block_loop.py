"""A stage whose shards are fetched by block is interrupted, stopped and resumed like any other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from block_site import Site, staged
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msp_ds.curriculum import curriculum
from msp_ds.data.remote import blocks as remote_blocks
from msp_ds.data.remote import remote_files
from msp_ds.data.remote.blocks import Blocks
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.training.assembly.checks import check_stage
from msp_ds.training.assembly.inputs import open_stage_data
from msp_ds.training.checkpointing.checkpoint import checkpoints, read_manifest, read_weights
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.interrupt import Interrupted, StopRequest
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config
from msp_ds.training.stage import Job, train_stage

STAGE = curriculum("s")[0]
STEPS = 7
"""Of 36 pairs, where a block is 60: the first five end with block 2, the sixth begins with block 3."""
SMALL = ("model.num_layers=1", "model.hidden_size=16", "model.num_heads=2", "model.intermediate_size=16")


@pytest.fixture
def site(twelve_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote_blocks, "PAUSE", 0.01)
    with staged(twelve_tars, tmp_path / "cache") as site:
        yield site


def trained(
    shards: Path, folder: Path, runtime: Runtime, *, stop: StopRequest | None = None, steps: int = STEPS
) -> Path:
    """Trains or continues the stage; its folder."""
    options = {"curriculum": "s", "batch_size": 36, "max_steps": steps, "settings": SMALL}
    job = Job(
        config=new_config(RunOptions(**options, shards=str(shards))),
        execution=Execution(precision="fp32"),
        folder=folder,
        runtime=runtime,
        stop=stop or StopRequest(),
        save_every=3,
    )
    data = open_stage_data(shards, STAGE)
    check_stage(job.config, job.execution, runtime, STAGE, data)
    train_stage(job, STAGE, data, folder=folder / "1-sentence", start_from=None)
    return folder / "1-sentence"


def assert_same_weights(one: Path, other: Path) -> None:
    weights, expected = (read_weights(checkpoints(stage / "checkpoints")[-1]) for stage in (one, other))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.fixture(scope="module")
def whole(twelve_tars: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    with staged(twelve_tars, folder / "cache") as site:
        stage = trained(site.folder, folder / "run", runtime)
        site.look()
    return stage


def test_the_ratio_of_local_hard_negatives_is_shown(whole: Path) -> None:
    events = EventAccumulator(str(whole))
    events.Reload()
    fractions = {point.step: point.value for point in events.Scalars("data/local_hard_negative_ratio")}
    assert list(fractions) == [3, 6, 7]
    assert all(0 < one < 1 for one in fractions.values())
    assert not [name for name in events.Tags()["scalars"] if "validation" in name and "local_hard" in name]


def test_sets_that_fit_show_no_such_fraction(twelve_tars: Path, runtime: Runtime, tmp_path: Path) -> None:
    stage = trained(twelve_tars, tmp_path / "run", runtime, steps=1)
    events = EventAccumulator(str(stage))
    events.Reload()
    assert not [name for name in events.Tags()["scalars"] if "local_hard" in name]
    assert read_manifest(checkpoints(stage / "checkpoints")[-1]).state["order"] == "from the whole set"


def test_a_block_that_cannot_be_had_ends_the_run_after_saving_and_it_goes_on_in_the_same_blocks_alone(
    site: Site, whole: Path, twelve_tars: Path, runtime: Runtime, tmp_path: Path
) -> None:
    def cut(path: str, start: int) -> int | None:
        return 300 if "train" in path and path.endswith(".tar") and len(set(site.requested_tars())) > 7 else None

    site.server.cut = cut
    with pytest.raises(
        ShardError,
        match=r"after step 5, which is saved: http\S+\.tar could not .* with --resume and this --cache-limit$",
    ):
        trained(site.folder, tmp_path / "run", runtime)
    saved = checkpoints(tmp_path / "run" / "1-sentence" / "checkpoints")[-1]
    assert read_manifest(saved).state["step"] == 5
    assert read_manifest(saved).state["order"] == "in 6 blocks, as --cache-limit decides"
    site.server.cut = lambda path, start: None
    message = "saved with order in 6 blocks, as --cache-limit decides, now it is from the whole set; bring back"
    with pytest.raises(CheckpointError, match=message):
        trained(twelve_tars, tmp_path / "run", runtime)
    assert_same_weights(trained(site.folder, tmp_path / "run", runtime), whole)


def test_a_stop_request_is_noticed_while_waiting_for_a_block(
    site: Site, whole: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, back, stalled, looked, ready = StopRequest(), threading.Event(), [], site.server.change, Blocks.ready

    def stall(path: str, data: bytes) -> bytes:
        if "train" in path and path.endswith(".tar") and len(set(site.requested_tars())) > 6:
            stalled.append(path)
            back.wait(120)
        return looked(path, data)

    def noted(blocks: Blocks) -> bool:
        there = ready(blocks)
        if stalled and not there:
            stop.signal = 15
        return there

    site.server.change = stall
    monkeypatch.setattr(Blocks, "ready", noted)
    with pytest.raises(Interrupted, match=r"stopped after step 5; \S+ is saved, --resume continues"):
        trained(site.folder, tmp_path / "run", runtime, stop=stop)
    assert len(stalled) == 1
    back.set()
    monkeypatch.setattr(Blocks, "ready", ready)
    site.server.change = looked
    assert_same_weights(trained(site.folder, tmp_path / "run", runtime), whole)


def test_a_request_to_stop_before_the_first_block_saves_nothing(site: Site, runtime: Runtime, tmp_path: Path) -> None:
    stop = StopRequest()
    stop.signal = 15
    with pytest.raises(Interrupted, match=r"^stopped before the first step; --resume continues$"):
        trained(site.folder, tmp_path / "run", runtime, stop=stop)
    assert not checkpoints(tmp_path / "run" / "1-sentence" / "checkpoints")
    site.look()


def test_a_batch_larger_than_a_block_is_refused_before_the_run_begins(
    site: Site, runtime: Runtime, tmp_path: Path
) -> None:
    site.look()
    job = Job(
        config=new_config(RunOptions(curriculum="s", shards=str(site.folder), batch_size=61)),
        execution=Execution(precision="fp32"),
        folder=tmp_path,
        runtime=runtime,
        stop=StopRequest(),
    )
    with pytest.raises(InputError, match=r"each with at least a batch of 61 pairs, .* give --cache-limit 0\.1$"):
        check_stage(job.config, job.execution, runtime, STAGE, open_stage_data(site.folder, STAGE))
