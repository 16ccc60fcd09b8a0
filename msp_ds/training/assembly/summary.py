"""What a stage shows beside its metrics: lines in the log at its start, a row in a table at its end."""

import logging
from collections.abc import Sequence
from pathlib import Path

from msp_ds.config import RunConfig
from msp_ds.curriculum import BENCHMARKS, Stage
from msp_ds.training.assembly.building import order_name
from msp_ds.training.assembly.inputs import StageInputs
from msp_ds.training.cadence import Cadence
from msp_ds.training.engine.execution import Execution
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.metric_texts import config_text, stage_text

log = logging.getLogger(__name__)

COLUMNS = (
    *("loss/total", "accuracy/mlm", "accuracy/moc_object", "accuracy/moc_attribute", "error/mrfr"),
    *("accuracy/ifrs", "f1/titp", "f1/tits", "accuracy/itm_hs"),
    *(f"accuracy/{name}" for name in BENCHMARKS),
)
"""Validation metrics in TensorBoard's table of runs. They are the same for all stages, since TensorBoard shows for all
runs in a folder the columns of the first that it reads."""


def announce(config: RunConfig, stage: Stage, inputs: StageInputs, *, start: int) -> None:
    """Log what a stage is about to train, for how long, and in which order."""
    schedule, choice, loader = stage.schedule(config.schedule), inputs.choice, inputs.loader
    log.info(
        "%s: %s on %d pairs, %d epochs in batches of %d, %d steps%s",
        stage.name,
        ", ".join(task.name for task in stage.tasks),
        sum(len(reader.keys) for reader in loader.readers),
        schedule.epochs,
        schedule.batch_size,
        inputs.num_steps,
        f", continued after step {start}" if start else "",
    )
    effect = "on: they save" if choice.buckets else "off: they would save"
    log.info("%s: length buckets %s %.1f %% of the text slots", stage.name, effect, 100 * choice.saved_ratio)
    if loader.blocks is not None:
        log.info("%s: shards come while it trains, pairs %s", stage.name, order_name(loader.num_blocks))


def open_metric_logger(
    folder: Path, config: RunConfig, stages: Sequence[Stage], cadence: Cadence, *, name: str, is_first: bool
) -> MetricLogger:
    """Open the logger of stage `name`; at the beginning of a run it shows the configuration and all `stages`."""
    metric_logger = MetricLogger(folder, name=name, num_steps=cadence.num_steps, start=cadence.start, speaks=is_first)
    metric_logger.introduce({"config": config_text(config), "stages": stage_text(stages, config)})
    return metric_logger


def conclude(
    metric_logger: MetricLogger, config: RunConfig, stage: Stage, execution: Execution, *, num_ranks: int
) -> None:
    """Add a finished stage to TensorBoard's table of runs: its settings and its last validation."""
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
        "ranks": num_ranks,
    }
    metric_logger.hyperparameters(settings, COLUMNS)
