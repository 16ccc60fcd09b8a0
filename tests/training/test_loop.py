"""The loop validates in the same way each time, keeps what is not finite out of checkpoints, and stops on request."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from msp_ds.curriculum import curriculum
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.presets import get_preset
from msp_ds.records import MeanMetric
from msp_ds.training.assembly.checks import check_stage
from msp_ds.training.assembly.inputs import open_stage_data
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.checkpointing import saving
from msp_ds.training.checkpointing.checkpoint import MANIFEST, WEIGHTS, checkpoints, read_weights
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE, read_run_card, read_run_execution
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.finite import read_batch_info
from msp_ds.training.guards.interrupt import Interrupted, StopRequest
from msp_ds.training.guards.limits import Limits
from msp_ds.training.loop import StageLoop
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config
from msp_ds.training.run import git_commit, train
from msp_ds.training.stage import Job, train_stage
from msp_ds.training.validation import Meter

STAGE = curriculum("t")[0]


def a_job(shards: Path, folder: Path, runtime: Runtime, *, save_every: int = 2, **flags: object) -> Job:
    """Six steps of the token stage of the small world."""
    options = {"curriculum": "t", "shards": str(shards), "batch_size": 16, "max_steps": 6, **flags}
    return Job(
        config=new_config(RunOptions(**options)),
        execution=Execution(precision="fp32"),
        folder=folder,
        runtime=runtime,
        stop=StopRequest(),
        save_every=save_every,
    )


def trained(job: Job) -> Path:
    """Trains the stage; its folder."""
    folder = job.folder / "1-token"
    train_stage(job, STAGE, open_stage_data(Path(job.config.shards), STAGE), folder=folder, start_from=None)
    return folder


def a_metric(total: float, count: float) -> MeanMetric:
    return MeanMetric(torch.tensor(total, dtype=torch.float64), torch.tensor(count, dtype=torch.float64))


def test_the_meter_divides_once_after_adding_over_batches(runtime: Runtime) -> None:
    meter = Meter()
    meter.add({"accuracy": a_metric(1, 10), "loss": a_metric(6, 2)})
    meter.add({"accuracy": a_metric(8, 10)})
    assert meter.read(runtime) == {"accuracy": 9 / 20, "loss": 3.0}
    assert meter.read(runtime) == {}, "reading starts again"
    meter.add({"accuracy": a_metric(0, 0)})
    assert math.isnan(meter.read(runtime)["accuracy"]), "nothing was counted"


def test_validation_masks_the_same_positions_each_time(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    validate = StageLoop.validate

    def twice(loop: StageLoop, done: int) -> dict[str, float]:
        found.append([validate(loop, step) for step in (done, done + 7)])
        assert loop.engine.engine.module.training, "training goes on with dropout"
        return found[-1][0]

    monkeypatch.setattr(StageLoop, "validate", twice)
    trained(a_job(small_shards, tmp_path, runtime))
    assert len(found) == 2  # after four steps, an epoch, and at the end
    for first, second in found:
        assert str(first) == str(second)  # text, since nan != nan
    assert found[0][0]["loss/mlm"] != found[1][0]["loss/mlm"]


def test_every_held_out_pair_is_scored_once(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    read = BatchLoader.read

    def noting(loader: BatchLoader, part: int, pairs: Tensor, *, epoch: int, **how: Any) -> object:
        if epoch == -1:
            seen.append(pairs)
        return read(loader, part, pairs, epoch=epoch, **how)

    monkeypatch.setattr(BatchLoader, "read", noting)
    trained(a_job(small_shards, tmp_path, runtime, max_steps=1))
    assert sorted(torch.cat(seen).tolist()) == list(range(16))


def poison(monkeypatch: pytest.MonkeyPatch, *, steps: set[int]) -> None:
    """Makes the losses of these steps, counted from 1, not a number."""
    from msp_ds.training.pretraining_model import PretrainingModel

    forward, count = PretrainingModel.forward, []

    def poisoned(model: PretrainingModel, *arguments: Any) -> Any:
        losses = forward(model, *arguments)
        if model.training:
            count.append(None)
        if model.training and len(count) in steps:
            bad = losses.total * math.nan
            metrics = {**losses.metrics, "loss/total": MeanMetric.of(bad), "loss/moc": MeanMetric.of(bad)}
            return dataclasses.replace(losses, total=bad, metrics=metrics)
        return losses

    monkeypatch.setattr(PretrainingModel, "forward", poisoned)


@pytest.mark.parametrize("save_every", [1, 2, 5])
def test_losses_that_are_not_finite_again_and_again_stop_the_run_and_stay_out_of_the_checkpoints(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    poison(monkeypatch, steps={3, 4, 5})
    job = a_job(small_shards, tmp_path, runtime, save_every=save_every)
    with pytest.raises(
        FloatingPointError, match=r"loss/moc is not finite by step 5 of stage token, 3 steps in a row; .* --resume"
    ):
        trained(job)
    assert not (tmp_path / "1-token" / STAGE_FILE).exists()
    kept = checkpoints(tmp_path / "1-token" / "checkpoints")
    assert kept
    for path in kept:
        assert all(bool(tensor.isfinite().all()) for tensor in read_weights(path).values())


def test_a_step_whose_loss_is_not_finite_is_left_out_named_and_noted(
    runtime: Runtime,
    small_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    poison(monkeypatch, steps={3})
    folder = trained(a_job(small_shards, tmp_path, runtime, save_every=1))
    before, after = (read_weights(folder / "checkpoints" / f"step-0000000{step}") for step in (5, 6))
    assert (folder / STAGE_FILE).is_file()
    assert any(not torch.equal(before[name], after[name]) for name in before), "it goes on"
    (path,) = (folder / "not-finite").iterdir()
    assert path.name == "step-00000003-rank-0.json"
    info = read_batch_info(path)
    assert (info.stage, info.step, info.tasks) == ("token", 2, ("mlm", "mrfr", "moc", "ifrs"))
    assert math.isnan(info.losses["loss/moc"])
    assert math.isfinite(info.losses["loss/mlm"])
    assert len(info.keys) == 16
    keys = ", ".join(map(str, info.keys[:4]))
    assert (
        f"loss/moc is not finite in step 3 of stage token, which is skipped; pairs {keys} and 12 more; "
        f"look into it with: msp-ds replay {path}"
    ) in caplog.messages
    events = EventAccumulator(str(folder))
    events.Reload()
    points = {point.step: point.value for point in events.Scalars("loss/total")}
    assert [step for step, value in points.items() if math.isnan(value)] == [3]


def test_a_step_that_is_left_out_changes_no_weight(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, steps={3})
    job = dataclasses.replace(a_job(small_shards, tmp_path, runtime, save_every=1), save_total_limit=9)
    folder = trained(job)
    before, after = (folder / "checkpoints" / f"step-0000000{step}" / WEIGHTS for step in (2, 3))
    assert before.read_bytes() == after.read_bytes()


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_left_out_and_counted_too(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msp_ds.training.engine.engine import Engine

    step, count = Engine.step, []

    def poisoned(engine: Engine) -> None:
        count.append(None)
        if len(count) in (2, 3):
            engine.engine.module.backbone.regions.feature.weight.grad.fill_(math.inf)
        step(engine)

    monkeypatch.setattr(Engine, "step", poisoned)
    job = dataclasses.replace(a_job(small_shards, tmp_path, runtime), limits=Limits(stop_after_nan=2))
    with pytest.raises(FloatingPointError, match=r"the gradient's norm is not finite by step 3 .* 2 steps in a row"):
        trained(job)
    (kept,) = checkpoints(tmp_path / "1-token" / "checkpoints")
    assert all(bool(tensor.isfinite().all()) for tensor in read_weights(kept).values())


def test_a_request_to_stop_saves_and_leaves(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(small_shards, tmp_path, runtime)
    job.stop.signal = 15
    with pytest.raises(Interrupted, match=r"stopped after step 2; .*step-00000002 is saved") as caught:
        trained(job)
    assert caught.value.exit_code == 143
    assert [path.name for path in checkpoints(tmp_path / "1-token" / "checkpoints")] == ["step-00000002"]
    job.stop.signal = 0
    assert (trained(job) / STAGE_FILE).is_file()


def test_a_save_that_fails_stops_nothing_until_the_stages_end(
    runtime: Runtime,
    small_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write, full = saving.write_checkpoint, {4, 6}

    def on_a_full_disk(*what: Any, step: int, **how: Any) -> None:
        if step in full:
            raise OSError(28, "No space left on device")
        write(*what, step=step, **how)

    monkeypatch.setattr(saving, "write_checkpoint", on_a_full_disk)
    job = a_job(small_shards, tmp_path, runtime)
    with pytest.raises(
        InputError, match=r"step-00000006 could not be saved .*No space left.*; free disk space, then continue"
    ):
        trained(job)
    assert "step-00000004 could not be saved" in caplog.text
    assert not (tmp_path / "1-token" / STAGE_FILE).exists()
    assert [path.name for path in checkpoints(tmp_path / "1-token" / "checkpoints")] == ["step-00000002"]
    full.clear()
    assert (trained(job) / STAGE_FILE).is_file()


def test_a_second_ctrl_c_stops_at_once() -> None:
    stop = StopRequest()
    stop._note(2, None)
    assert stop.signal == 2
    with pytest.raises(KeyboardInterrupt):
        stop._note(2, None)


def an_interrupted_run(shards: Path, folder: Path, runtime: Runtime) -> Job:
    """A run of two stages that was stopped in the first."""
    job = a_job(shards, folder / "run", runtime, curriculum="tp")
    job.stop.signal = 15
    with pytest.raises(Interrupted):
        train(job)
    return job


@pytest.mark.parametrize("changed", ["token/train", "token/val", "phrase/train", "phrase/val"])
def test_shards_that_changed_under_a_run_are_noticed(
    runtime: Runtime, small_shards: Path, tmp_path: Path, changed: str
) -> None:
    shutil.copytree(small_shards, tmp_path / "shards")
    job = an_interrupted_run(tmp_path / "shards", tmp_path, runtime)
    card = (job.folder / RUN_FILE).read_bytes()
    index = tmp_path / "shards" / changed / "index.json"
    index.write_text(index.read_text().replace('"extractor": "tests"', '"extractor": "other tests"'))
    with pytest.raises(
        InputError, match=rf"shard set {changed} has changed since \S+run was started; .* --shards FOLDER"
    ):
        train(job)
    assert (job.folder / RUN_FILE).read_bytes() == card


def test_a_set_that_went_is_noticed(runtime: Runtime, small_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(small_shards, tmp_path / "shards")
    job = an_interrupted_run(tmp_path / "shards", tmp_path, runtime)
    shutil.rmtree(tmp_path / "shards" / "token" / "val")
    with pytest.raises(InputError, match="shard set token/val is gone"):
        train(job)


def test_a_resumed_run_keeps_its_card_and_adds_to_it(runtime: Runtime, small_shards: Path, tmp_path: Path) -> None:
    job = an_interrupted_run(small_shards, tmp_path, runtime)
    first = read_run_card(job.folder)
    again = dataclasses.replace(job, execution=Execution(precision="fp32", micro_batch=8))
    with pytest.raises(Interrupted):
        train(again)
    card = read_run_card(job.folder)
    (entry,) = card.pop("resumed")
    assert card == first
    assert (entry["world_size"], entry["git_commit"]) == (1, git_commit())
    assert entry["time"].endswith("+00:00")
    assert read_run_execution(job.folder) == again.execution


def test_a_stage_that_was_saved_with_other_settings_does_not_go_on(
    runtime: Runtime, small_shards: Path, tmp_path: Path
) -> None:
    job = a_job(small_shards, tmp_path, runtime)
    job.stop.signal = 15
    with pytest.raises(Interrupted):
        trained(job)
    later = a_job(small_shards, tmp_path, runtime, seed=1)
    with pytest.raises(CheckpointError, match="was saved with seed 9595, now it is 1; bring back what changed"):
        trained(later)


def validations(stage: Path) -> dict[int, float]:
    """Step -> the validation's loss, as TensorBoard has it; a step that comes twice is an error."""
    events = EventAccumulator(str(stage))
    events.Reload()
    points = events.Scalars("validation/loss/mlm")
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def test_a_stop_at_an_epochs_end_leaves_its_validation_to_the_resumed_run(
    runtime: Runtime, small_shards: Path, tmp_path: Path
) -> None:
    whole = trained(a_job(small_shards, tmp_path / "whole", runtime))
    job = a_job(small_shards, tmp_path / "stopped", runtime, save_every=100)  # first report: after four steps, an epoch
    job.stop.signal = 15
    with pytest.raises(Interrupted, match="stopped after step 4"):
        trained(job)
    job.stop.signal = 0
    assert validations(trained(job)) == validations(whole)
    assert list(validations(whole)) == [4, 6]


def test_a_stop_request_is_noticed_during_validation(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The validation listens for a stop as often as the loop reports.
    job = dataclasses.replace(a_job(small_shards, tmp_path, runtime, save_every=100), report_every=1)
    read = BatchLoader.read

    def stopped_meanwhile(loader: BatchLoader, part: int, pairs: Tensor, *, epoch: int, **how: Any) -> object:
        if epoch == -1:
            job.stop.signal = 15
        return read(loader, part, pairs, epoch=epoch, **how)

    monkeypatch.setattr(BatchLoader, "read", stopped_meanwhile)
    for _ in range(2):  # the second time within the validation that the first left out
        job.stop.signal = 0
        with pytest.raises(Interrupted, match="stopped after step 4"):
            trained(job)
    monkeypatch.undo()
    job.stop.signal = 0
    assert list(validations(trained(job))) == [4, 6]


def test_a_stage_that_was_killed_after_its_last_save_still_has_its_results(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(small_shards, tmp_path, runtime)
    written = (trained(job) / STAGE_FILE).read_text()
    (tmp_path / "1-token" / STAGE_FILE).unlink()
    monkeypatch.setattr(StageLoop, "validate", lambda loop, done: pytest.fail("validated twice"))
    assert (trained(job) / STAGE_FILE).read_text() == written


def test_a_mix_reports_a_part_without_held_out_pairs_as_not_validated(
    small_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(small_shards, tmp_path / "shards")
    mixed = curriculum("t+p")[0]
    assert len(open_stage_data(tmp_path / "shards", mixed).validation) == 2
    shutil.rmtree(tmp_path / "shards" / "phrase" / "val")
    assert open_stage_data(tmp_path / "shards", mixed).validation == ()
    assert caplog.messages == [f"token+phrase is not validated: {tmp_path}/shards/phrase/val is missing"]


def test_texts_longer_than_the_model_has_positions_are_refused(runtime: Runtime, small_shards: Path) -> None:
    job = a_job(small_shards, Path(), runtime, settings=("model.max_positions=40",))
    with pytest.raises(ShardError, match="texts of up to 64 pieces, the model 40 positions"):
        train(job)


def test_the_handlers_of_signals_come_back(runtime: Runtime) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    stop = StopRequest()
    with stop.listen():
        assert [signal.getsignal(number) for number in numbers] == [stop._note, stop._note]
        signal.raise_signal(signal.SIGTERM)
    assert stop.signal == signal.SIGTERM
    assert [signal.getsignal(number) for number in numbers] == before


def test_what_the_first_rank_cannot_do_no_rank_waits_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ShardError("no room")

    with pytest.raises(InputError, match="no room"):
        runtime.on_rank_zero(fail)
    second = dataclasses.replace(runtime, rank=1)
    second.on_rank_zero(fail)  # it is not called there
    monkeypatch.setattr(Runtime, "any_error", lambda one, message: "no room, says rank 0")
    with pytest.raises(InputError, match="no room, says rank 0"):
        second.on_rank_zero(fail)


def test_a_mix_under_zero_3_is_refused(runtime: Runtime, small_shards: Path, tmp_path: Path) -> None:
    mixed = curriculum("t+p+s")[0]
    job = a_job(small_shards, tmp_path, runtime, curriculum="t+p+s")
    data = open_stage_data(small_shards, mixed)
    check_stage(job.config, job.execution, runtime, mixed, data)
    with pytest.raises(ValueError, match="set zero_stage to 2"):
        check_stage(job.config, Execution(precision="fp32", zero_stage=3), runtime, mixed, data)


def test_fp16_with_zero_is_refused_on_a_cpu(runtime: Runtime, small_shards: Path, tmp_path: Path) -> None:
    config, fp16 = a_job(small_shards, tmp_path, runtime).config, Execution(precision="fp16", zero_stage=1)
    with pytest.raises(ValueError, match="fp16 with ZeRO needs a GPU"):
        check_stage(config, fp16, runtime, STAGE, open_stage_data(small_shards, STAGE))


def test_more_ranks_than_held_out_pairs_are_refused(runtime: Runtime, small_shards: Path, tmp_path: Path) -> None:
    job, ranks = a_job(small_shards, tmp_path, runtime, batch_size=64), dataclasses.replace(runtime, world_size=32)
    with pytest.raises(ValueError, match="val has 16 pairs for 32 ranks; use fewer ranks"):
        check_stage(job.config, job.execution, ranks, STAGE, open_stage_data(small_shards, STAGE))


def test_stages_with_other_names_than_the_curriculum_are_refused(
    runtime: Runtime, small_shards: Path, tmp_path: Path
) -> None:
    job = dataclasses.replace(a_job(small_shards, tmp_path, runtime), stages=curriculum("tp"))
    with pytest.raises(InputError, match="the stages given are token, phrase, but curriculum t has token; give"):
        train(job)


@pytest.mark.slow
def test_a_stage_goes_on_with_the_tasks_that_it_began_with_or_not_at_all(
    runtime: Runtime, small_shards: Path, tmp_path: Path
) -> None:
    job = a_job(small_shards, tmp_path, runtime, max_steps=1)
    job = dataclasses.replace(job, stages=curriculum("t", drop=["ifrs"]))
    train(job)
    (tmp_path / "1-token" / STAGE_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"was saved with tasks \['mlm', 'mrfr', 'moc'\], now it is"):
        train(dataclasses.replace(job, stages=()))


def test_without_a_terminal_a_run_logs_its_position(
    runtime: Runtime, small_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="msp_ds"):
        trained(a_job(small_shards, tmp_path, runtime))
    epochs = get_preset("tiny").schedule["token"].epochs
    assert f"token: mlm, mrfr, moc, ifrs on 64 pairs, {epochs} epochs in batches of 16, 6 steps" in caplog.text
    assert "token: step 6 of 6, loss" in caplog.text
    assert "pairs/s, 0:00 left" in caplog.text


def test_a_validation_with_what_is_no_number_survives_a_resume(
    runtime: Runtime, small_shards: Path, tmp_path: Path
) -> None:
    job = a_job(small_shards, tmp_path, runtime)
    folder = trained(job)
    (folder / STAGE_FILE).unlink()
    path = folder / "checkpoints" / "step-00000006" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["state"]["validated"] = {"loss/total": 3.0, "accuracy/moc_object": None}  # nobody asked about an object
    path.write_text(json.dumps(manifest))
    trained(job)
    assert json.loads((folder / STAGE_FILE).read_text())["validation"] == manifest["state"]["validated"]
