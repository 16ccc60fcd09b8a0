"""TensorBoard's file shows every step once, also after an interruption."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event

from msp_ds.config import write_json
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE
from msp_ds.training.monitoring import event_file
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.metrics_file import METRICS_FILE, read_metrics


def shown(folder: Path, name: str) -> dict[int, float]:
    """Step -> value of a scalar, as TensorBoard shows it."""
    events = EventAccumulator(str(folder))
    events.Reload()
    points = events.Scalars(name)
    assert len(points) == len({point.step for point in points})
    return {point.step: point.value for point in points}


def a_logger(folder: Path, *, start: int, speaks: bool = True) -> MetricLogger:
    return MetricLogger(folder, name="token", num_steps=6, start=start, speaks=speaks)


def test_steps_after_the_checkpoint_are_replaced_and_those_before_stay(tmp_path: Path) -> None:
    before = a_logger(tmp_path, start=0)
    for step in (1, 2, 3, 4):
        before.scalars(step, {"loss/mlm": 10.0 + step})
    before.close()
    time.sleep(1.1)  # files are ordered by the second in their names
    after = a_logger(tmp_path, start=2)
    for step in (3, 4, 5):
        after.scalars(step, {"loss/mlm": 20.0 + step})
    after.close()
    assert shown(tmp_path, "loss/mlm") == {1: 11.0, 2: 12.0, 3: 23.0, 4: 24.0, 5: 25.0}


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    metric_logger = a_logger(tmp_path, start=0)
    metric_logger.scalars(1, {"loss/mlm": 1.5})
    metric_logger.flush()
    assert shown(tmp_path, "loss/mlm") == {1: 1.5}  # never closed
    metric_logger.close()


def test_a_disk_that_takes_no_more_is_warned_of_and_training_goes_on(tmp_path: Path) -> None:
    program = """if True:
        import resource, sys, numpy
        from pathlib import Path
        from msp_ds.training.monitoring.metric_logger import MetricLogger
        folder = Path(sys.argv[1])
        logger = MetricLogger(folder, name="token", num_steps=6, start=0, speaks=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))  # a real write fails
        for step in range(1, 7):
            logger.scalars(step, {"loss/mlm": 1.0})
            logger.text("says", "much", step=step)
            logger.picture("shows", numpy.zeros((8, 8, 3), numpy.uint8), step=step)
            logger.hyperparameters({"lr": 1.0}, ["loss/mlm"])
            logger.flush()
        logger.close()
        again = MetricLogger(folder / "new", name="token", num_steps=6, start=0, speaks=True)
        again.scalars(1, {"loss/mlm": 2.0})
        again.close()
        nowhere = MetricLogger(Path("/dev/full/run"), name="token", num_steps=6, start=0, speaks=True)
        nowhere.scalars(1, {"loss/mlm": 2.0})
        print("went on")"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert "Traceback" not in done.stderr
    warnings = [
        re.sub(r"tfevents\S*", "tfevents", line) for line in done.stderr.splitlines() if "cannot be written" in line
    ]
    assert warnings == [
        f"{tmp_path}/events.out.tfevents cannot be written (File too large); training goes on without its curves until "
        "it is resumed",
        f"{tmp_path}/metrics.jsonl cannot be written (File too large); training goes on",
        "/dev/full/run/events.out.tfevents cannot be written (Not a directory); training goes on without its curves "
        "until it is resumed",
        "/dev/full/run/metrics.jsonl cannot be written (Not a directory); training goes on",
    ]
    assert shown(tmp_path / "new", "loss/mlm") == {1: 2.0}


def test_a_file_that_gets_the_descriptor_of_one_that_failed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(event_file.log, "warning", lambda *_: opened.append((tmp_path / "weights").open("wb")))
    events = event_file.EventFile(tmp_path)
    events.close()
    events._file = Path("/dev/full").open("wb")  # noqa: SIM115
    events.add_event(Event(step=1))
    with opened[0] as weights:
        weights.write(b"weights")
    assert (tmp_path / "weights").read_bytes() == b"weights"


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    metric_logger = a_logger(tmp_path / "none", start=0, speaks=False)
    metric_logger.scalars(1, {"loss/mlm": 1.0})
    metric_logger.advance(1, {})
    metric_logger.flush()
    metric_logger.close()
    assert not (tmp_path / "none").exists()


def a_run(folder: Path) -> Path:
    """The folder of a run whose first stage took 100 steps."""
    write_json(folder / RUN_FILE, {})
    (folder / "1-token").mkdir()
    write_json(folder / "1-token" / STAGE_FILE, {"steps": 100, "checkpoint": "step-00000100"})
    return folder


def test_the_curves_of_the_run_go_on_where_the_stage_before_ended(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    metric_logger = MetricLogger(run / "2-phrase", name="phrase", num_steps=50, start=0, speaks=True)
    metric_logger.scalars(10, {"loss/total": 1.5}, epoch=0.5)
    metric_logger.scalars(10, {"loss/total": 2.5}, epoch=0.5, report="validation")
    metric_logger.close()
    assert shown(run / "2-phrase", "loss/total") == {10: 1.5}
    assert shown(run, "loss/total") == {110: 1.5}
    assert shown(run, "validation/loss/total") == {110: 2.5}
    rows = [(row["report"], row["step"], row["loss/total"]) for row in read_metrics(run / "2-phrase" / METRICS_FILE)]
    assert rows == [("training", 10, 1.5), ("validation", 10, 2.5)]


@pytest.mark.parametrize(
    ("stage", "start", "introduced"), [("1-token", 0, True), ("1-token", 5, False), ("2-s", 0, False)]
)
def test_a_run_is_introduced_once(tmp_path: Path, stage: str, start: int, introduced: bool) -> None:
    run = a_run(tmp_path)
    metric_logger = MetricLogger(run / stage, name="token", num_steps=50, start=start, speaks=True)
    metric_logger.introduce({"config": "a text"})
    metric_logger.close()
    seen = EventAccumulator(str(run))
    seen.Reload()
    assert seen.Tags()["tensors"] == (["config/text_summary"] if introduced else [])


def test_texts_pictures_and_the_table_of_runs_are_in_the_stage_s_file(tmp_path: Path) -> None:
    metric_logger = a_logger(tmp_path, start=0)
    metric_logger.scalars(6, {"loss/total": 2.5}, report="validation")
    metric_logger.text("samples", "a *guess*", step=6)
    metric_logger.picture("pairs/1", np.full((4, 8, 3), 255, np.uint8), step=6)
    metric_logger.hyperparameters({"lr": 0.1, "preset": "tiny"}, ["loss/total"])
    metric_logger.close()
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    assert seen.Tensors("samples/text_summary")[0].tensor_proto.string_val == [b"a *guess*"]
    assert (seen.Images("pairs/1")[0].width, seen.Images("pairs/1")[0].height) == (8, 4)
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= seen.PluginTagToContent("hparams").keys()


def test_a_stage_without_a_terminal_logs_what_it_is_doing_between_two_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    came = threading.Event()
    monkeypatch.setattr("msp_ds.training.monitoring.metric_logger.SECONDS_BETWEEN_LINES", 0.01)
    monkeypatch.setattr(logging.getLogger("msp_ds.training.monitoring.metric_logger"), "info", lambda *_: came.set())
    metric_logger = a_logger(tmp_path, start=0)
    metric_logger.doing = "validation, batch 2 of 7"
    assert came.wait(60)
    metric_logger.close()
    monkeypatch.undo()
    with caplog.at_level(logging.INFO, logger="msp_ds"):
        metric_logger._log_progress()
    assert caplog.messages == ["token: after step 0 of 6, at validation, batch 2 of 7"]
