"""A trained stage leaves curves, texts and pictures behind; a resumed one has nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data
from test_loop import a_job, trained

from msp_ds.training.checkpointing.run_folder import STAGE_FILE
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.monitoring.metrics_file import METRICS_FILE, read_metrics


def seen(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_a_stage_shows_curves_texts_pictures_and_its_row_in_the_table_of_runs(
    runtime: Runtime, small_shards: Path, tmp_path: Path
) -> None:
    events = seen(trained(a_job(small_shards, tmp_path, runtime)))
    groups = {name.partition("/")[0] for name in events.Tags()["scalars"]}
    assert {"loss", "accuracy", "rate", "norm", "scale", "speed", "memory", "validation"} <= groups
    assert {"speed/pairs_per_s", "speed/wait_ratio", "speed/mfu"} <= set(events.Tags()["scalars"])
    assert {"config/text_summary", "stages/text_summary", "samples/text_summary"} <= set(events.Tags()["tensors"])
    assert [event.step for event in events.Tensors("samples/text_summary")] == [4, 6]  # an epoch, the end
    assert [event.step for event in events.Images("pairs/1")] == [4, 6]
    table = events.PluginTagToContent("hparams")
    assert "_hparams_/session_start_info" in table
    columns = parse_experiment_plugin_data(table["_hparams_/experiment"]).metric_infos
    assert {"validation/f1/tits", "validation/accuracy/vqa"} <= {one.name.tag for one in columns}  # of any stage


def test_a_resumed_stage_has_every_report_once(runtime: Runtime, small_shards: Path, tmp_path: Path) -> None:
    job = a_job(small_shards, tmp_path, runtime)
    folder = trained(job)
    whole = [(row["report"], row["step"]) for row in read_metrics(folder / METRICS_FILE)]
    assert whole == [
        *[("training", 2), ("training", 4), ("validation", 4)],
        *[("training", 6), ("validation", 6)],
    ]
    (folder / STAGE_FILE).unlink()
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    trained(job)
    assert [(row["report"], row["step"]) for row in read_metrics(folder / METRICS_FILE)] == whole


def test_showing_samples_does_not_change_the_weights(
    runtime: Runtime, small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msp_ds.training.validation import Validation

    shown = trained(a_job(small_shards, tmp_path / "shown", runtime))
    monkeypatch.setattr(Validation, "show_samples", lambda self, done: None)
    hidden = trained(a_job(small_shards, tmp_path / "hidden", runtime))
    one, other = (folder / "checkpoints" / "step-00000006" / "weights.safetensors" for folder in (shown, hidden))
    assert one.read_bytes() == other.read_bytes()
