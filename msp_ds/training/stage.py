"""One stage: open what it reads, build what it trains, run the loop, leave a finished folder behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from msp_ds.config import RunConfig, to_json
from msp_ds.curriculum import Stage, curriculum
from msp_ds.training.assembly import building
from msp_ds.training.assembly.inputs import StageData, StageInputs, open_inputs
from msp_ds.training.assembly.summary import announce, conclude, open_metric_logger
from msp_ds.training.cadence import REPORT_EVERY, Cadence
from msp_ds.training.checkpointing.run_folder import mark_finished
from msp_ds.training.checkpointing.saving import Saver
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.guards import build_guards
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.guards.limits import Limits
from msp_ds.training.loop import StageLoop
from msp_ds.training.memory.cards import peak_flops
from msp_ds.training.memory.cost_model import step_flops
from msp_ds.training.memory.memory import fitting_micro_batch, out_of_memory
from msp_ds.training.monitoring.throughput import Throughput
from msp_ds.training.validation import Validation

if TYPE_CHECKING:
    from msp_ds.training.planning import ShardCache


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run and how it is executed."""

    config: RunConfig
    execution: Execution
    folder: Path
    runtime: Runtime
    stop: StopRequest
    save_every: int = 500
    """Optimiser steps between checkpoints, beside one per epoch."""
    report_every: int = REPORT_EVERY
    """Optimiser steps between reports."""
    save_total_limit: int = 2
    """Newest checkpoints of a stage that stay, beside its best."""
    fits_micro_batch: bool = False
    """Whether each stage finds the largest micro batch that fits, in place of the one in `execution`."""
    limits: Limits = Limits()  # noqa: RUF009, it is frozen
    """When the run gives up."""
    local_shards: Path | None = None
    """Folder of the shards on this machine, if it is not the one in the configuration."""
    cache: ShardCache | None = None
    """Cache of shards that are named by an address."""
    stages: tuple[Stage, ...] = ()
    """The configuration's stages with tasks from outside the package; empty where there are none."""

    @property
    def planned(self) -> tuple[Stage, ...]:
        """The stages to train, in order."""
        return self.stages or curriculum(self.config.curriculum, drop=self.config.drop)

    @property
    def shards(self) -> Path:
        """The folder with one shard set per granularity."""
        return self.local_shards or Path(self.config.shards)


def train_stage(job: Job, stage: Stage, data: StageData, *, folder: Path, start_from: Path | None) -> None:
    """Train one stage, from its own last checkpoint if it has one, else from the checkpoint `start_from`."""
    config, runtime = job.config, job.runtime
    batch_size = stage.schedule(config.schedule).batch_size

    inputs = open_inputs(config, stage, data, runtime)
    saved = building.newest_checkpoint(folder / "checkpoints", runtime)
    context = inputs.loader.context.to(runtime.device)
    model = building.build_pretraining_model(config, stage, context, start_from=None if saved else start_from)
    point = building.resume(saved, model, _identity(config, stage, inputs)) if saved else building.ResumePoint()
    if job.fits_micro_batch:
        fitting = fitting_micro_batch(model, inputs.loader, job.execution, runtime, batch_size=batch_size)
        job = dataclasses.replace(job, execution=dataclasses.replace(job.execution, micro_batch=fitting))
    engine = building.build_engine(model, config.optim, job.execution, runtime, batch_size=batch_size, saved=saved)
    announce(config, stage, inputs, start=point.step)

    loop = _build_loop(job, stage, inputs, engine, point, folder)
    summarise = partial(conclude, loop.metric_logger, config, stage, job.execution, num_ranks=runtime.world_size)
    checkpoint, results = _run(loop, then=summarise)

    # Last of all: a stage without this file is continued from its last checkpoint when the run is resumed.
    facts = {"stage": stage.name, "steps": inputs.num_steps, "checkpoint": checkpoint.name, "validation": results}
    runtime.on_rank_zero(partial(mark_finished, folder, facts))
    engine.close()


def _identity(config: RunConfig, stage: Stage, inputs: StageInputs) -> dict[str, Any]:
    """Return what decides which numbers a stage computes: a run continues only where all of it is the same."""
    return {
        "seed": config.seed,
        "batch_size": stage.schedule(config.schedule).batch_size,
        "num_steps": inputs.num_steps,
        "length_buckets": inputs.choice.buckets,
        "order": building.order_name(inputs.loader.num_blocks),
        "tasks": [task.name for task in stage.tasks],
        "indexes": [one.index_sha256 for one in inputs.data.train],
    }


def _build_loop(
    job: Job, stage: Stage, inputs: StageInputs, engine: Engine, point: building.ResumePoint, folder: Path
) -> StageLoop:
    config, runtime, order = job.config, job.runtime, inputs.choice.order
    cadence = Cadence(
        start=point.step,
        num_steps=inputs.num_steps,
        batches_per_epoch=order.batches_per_epoch,
        save_every=job.save_every,
        report_every=job.report_every,
    )
    sets, precision = (*inputs.data.train, *inputs.data.validation), job.execution.precision
    guards = build_guards(job.limits, folder, sets, stage=stage.name, precision=precision, runtime=runtime)
    metric_logger = open_metric_logger(folder, config, job.planned, cadence, name=stage.name, is_first=runtime.is_first)
    validation = None
    if inputs.held_out is not None:
        validation = Validation(
            loader=inputs.held_out,
            engine=engine,
            cadence=cadence,
            metric_logger=metric_logger,
            watchdog=guards.watchdog,
            batch_size=order.batch_size,
        )
    # For readers of the checkpoint; a run may continue with another execution and on another number of ranks.
    record = {
        "stage": stage.name,
        "config": to_json(config),
        "execution": to_json(job.execution),
        "ranks": runtime.world_size,
    }
    return StageLoop(
        engine=engine,
        loader=inputs.loader,
        order=order,
        cadence=cadence,
        validation=validation,
        validated=point.validated,
        saver=Saver(folder / "checkpoints", keep=job.save_total_limit, runtime=runtime, alive=guards.watchdog.alive),
        state={**_identity(config, stage, inputs), **record},
        metric_logger=metric_logger,
        throughput=Throughput(peak_flops=peak_flops(runtime.device, precision), flops_of=partial(step_flops, config)),
        guards=guards,
        stop=job.stop,
        runtime=runtime,
    )


def _run(loop: StageLoop, *, then: Callable[[], None]) -> tuple[Path, Mapping[str, float]]:
    """Run the loop, call `then`, and close what the loop holds. Raises InputError when the GPU's memory ran out."""
    try:
        with loop.guards.watching():
            checkpoint, results = loop.run()
        then()
        return checkpoint, results
    except torch.OutOfMemoryError:
        # Only leave the block here: the exception holds the frames that hold the activations, and the trial below, of
        # a smaller micro batch, needs their memory.
        pass
    finally:
        loop.metric_logger.close()
        loop.loader.close()
        loop.saver.close()
    engine = loop.engine
    micro_batch = engine.engine.train_micro_batch_size_per_gpu()
    raise out_of_memory(engine.engine.module, loop.loader, engine.execution, loop.runtime, micro_batch=micro_batch)
