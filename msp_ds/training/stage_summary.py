"""What a stage shows beside its curves: what it is, what the model says of held-out pairs, how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from msp_ds.config import RunConfig, StageSchedule
from msp_ds.curriculum import BENCHMARKS, Stage
from msp_ds.data.loading.reader import Reader
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.loop import VALIDATION_EPOCH
from msp_ds.training.memory.cards import peak_flops
from msp_ds.training.memory.cost_model import step_flops
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.showcase import Showcase
from msp_ds.training.monitoring.throughput import Throughput
from msp_ds.training.pretraining_model import PretrainingModel

log = logging.getLogger(__name__)

COLUMNS = (
    *("loss/total", "accuracy/mlm", "accuracy/moc_object", "accuracy/moc_attribute", "error/mrfr"),
    *("accuracy/ifrs", "f1/titp", "f1/tits", "accuracy/itm_hs"),
    *(f"accuracy/{name}" for name in BENCHMARKS),
)
"""Metrics of validations in TensorBoard's table of runs, of whatever stage: it takes the columns for all runs in a
folder from the first that it meets."""


def announce(stage: Stage, schedule: StageSchedule, readers: list[Reader], *, num_steps: int, start: int) -> None:
    """Logs what a stage is about to train, and for how long."""
    log.info(
        "%s: %s on %d pairs, %d epochs in batches of %d, %d steps%s",
        stage.name,
        ", ".join(task.name for task in stage.tasks),
        sum(len(reader.keys) for reader in readers),
        schedule.epochs,
        schedule.batch_size,
        num_steps,
        f", continued after step {start}" if start else "",
    )


def pace_of(config: RunConfig, execution: Execution, runtime: Runtime) -> Throughput:
    """A clock that knows what a step takes and what the device could reach."""
    return Throughput(peak_flops=peak_flops(runtime.device, execution.precision), flops_of=partial(step_flops, config))


def showing(model: PretrainingModel, held_out: BatchLoader, metric_logger: MetricLogger) -> Callable[[int], None]:
    """What shows the model's answers after a validation; without held-out pairs it does nothing."""
    if not held_out.readers:
        return lambda step: None
    return Showcase(
        model, held_out.readers[-1], part=held_out.parts[-1], epoch=VALIDATION_EPOCH, metric_logger=metric_logger
    ).show


def conclude(metric_logger: MetricLogger, config: RunConfig, stage: Stage, *, execution: Execution, ranks: int) -> None:
    """Adds a finished stage to TensorBoard's table of runs: what tells it from others, and its last validation."""
    row = stage.schedule(config.schedule)
    settings: dict[str, bool | str | float] = {
        "stage": stage.name,
        "curriculum": config.curriculum,
        "preset": config.preset,
        "tasks": ", ".join(task.name for task in stage.tasks),
        "lr": config.optim.lr,
        "epochs": row.epochs,
        "batch_size": row.batch_size,
        "seed": config.seed,
        "precision": execution.precision,
        "zero_stage": execution.zero_stage,
        "ranks": ranks,
    }
    metric_logger.hyperparameters(settings, COLUMNS)
