"""One stage: what is built for it, what it starts from, what it leaves behind."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from msp_ds.config import RunConfig, to_json
from msp_ds.curriculum import Stage, curriculum
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.block_plan import BlockPlan, plan_blocks
from msp_ds.data.loading.order import OrderChoice, choose_order
from msp_ds.data.loading.reader import Reader
from msp_ds.data.loading.subset import fewer_pairs
from msp_ds.data.remote.blocks import Blocks, BlockSource, block_source
from msp_ds.errors import CheckpointError, InputError
from msp_ds.model.encoder import Backbone
from msp_ds.stateless_random import BACKBONE_WEIGHTS, STAGE_HEADS, key_of
from msp_ds.tasks.task import Context
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.checkpointing.checkpoint import (
    WEIGHTS,
    latest_valid,
    load_backbone,
    load_heads,
    load_part,
    read_manifest,
    read_tensors,
)
from msp_ds.training.checkpointing.run_folder import mark_finished
from msp_ds.training.checkpointing.saving import Saver, load_optimizer
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.compiling import compile_layers
from msp_ds.training.engine.engine import Engine
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.guards import build_guards
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.guards.limits import Limits
from msp_ds.training.loop import StageLoop
from msp_ds.training.memory.memory import fitting_micro_batch, out_of_memory
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.metric_texts import config_text, stage_text
from msp_ds.training.pretraining_model import PretrainingModel
from msp_ds.training.stage_summary import announce, conclude, pace_of, showing

if TYPE_CHECKING:
    from msp_ds.training.planning import ShardCache

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run and how it is executed."""

    config: RunConfig
    execution: Execution
    folder: Path
    runtime: Runtime
    stop: StopRequest
    save_every: int = 500
    """Optimiser steps between checkpoints, beside one an epoch."""
    keep: int = 2
    """Newest checkpoints of a stage that stay, beside its best."""
    fits_micro_batch: bool = False
    """Whether each stage finds out how many pairs fit into a forward pass, instead of what `execution` says."""
    limits: Limits = Limits()  # noqa: RUF009, it is frozen
    """When it gives up."""
    local_shards: Path | None = None
    """Where the shards lie on this machine, if not where the configuration says."""
    cache: ShardCache | None = None
    """Of shards that are named by an address."""
    stages: tuple[Stage, ...] = ()
    """The configuration's stages with tasks from outside the package; empty where there are none."""

    @property
    def planned(self) -> tuple[Stage, ...]:
        """The stages to train, in order."""
        return self.stages or curriculum(self.config.curriculum, drop=self.config.drop)

    @property
    def shards(self) -> Path:
        """The folder with one set a stage."""
        return self.local_shards or Path(self.config.shards)


@dataclass(frozen=True, kw_only=True)
class StageData:
    """The shard sets of a stage, one a part."""

    train: tuple[ShardSet, ...]
    validation: tuple[ShardSet, ...]
    """Empty when the shards hold nothing out."""


def open_stage_data(shards: Path, stage: Stage, *, max_pairs: int | None = None, seed: int = 0) -> StageData:
    """Opens the sets of every part of a stage; of the training sets `max_pairs` pairs, which `seed` chooses, or all."""
    train = tuple(open_set(shards / part.name / "train") for part in stage.parts)
    if max_pairs is not None:
        train = tuple(fewer_pairs(one, max_pairs, seed=seed) for one in train)
    held_out = [shards / part.name / "val" for part in stage.parts]
    missing = [str(path) for path in held_out if not path.is_dir()]
    if missing and len(missing) < len(held_out):
        log.warning("%s is not validated: %s is missing", stage.name, " and ".join(missing))
    validation = () if missing else tuple(open_set(path) for path in held_out)
    return StageData(train=train, validation=validation)


def plan_stage_blocks(job: Job, stage: Stage, data: StageData) -> tuple[BlockPlan, BlockSource] | None:
    """The blocks in which a stage's shards come, and where from; None where they are here. Raises InputError."""
    source = block_source(data.train)
    if source is None:
        return None
    batch_size = stage.schedule(job.config.schedule).batch_size
    limits = {"limit": source.limit, "kept": source.kept}
    return plan_blocks(data.train, **limits, seed=job.config.seed, batch_size=batch_size), source


def build_context(config: RunConfig, data: StageData) -> Context:
    """What the tasks may know, on the CPU, where the feed chooses images."""
    first = data.train[0]
    return Context(
        seed=config.seed,
        epoch=0,
        options=config.tasks,
        tables=first.tables(),
        feature_mean=torch.from_numpy(first.feature_mean),
    )


def build_pretraining_model(
    config: RunConfig, stage: Stage, context: Context, start_from: Path | None
) -> PretrainingModel:
    """A backbone, from a checkpoint or from chance, under fresh or carried heads; chance depends on the seed alone."""
    torch.manual_seed(key_of(BACKBONE_WEIGHTS.format(seed=config.seed)))
    backbone = Backbone(config.model)
    if start_from is not None:
        log.info("%s: %s", stage.name, load_backbone(backbone, start_from))
    torch.manual_seed(key_of(STAGE_HEADS.format(seed=config.seed, stage=stage.name)))
    model = PretrainingModel(backbone, stage.tasks, context)
    if start_from is not None and carries_heads(config, stage):
        log.info("%s: %s", stage.name, load_heads(model.heads, start_from))
    else:
        log.info("%s: fresh heads: %s", stage.name, ", ".join(model.heads))
    return model


def carries_heads(config: RunConfig, stage: Stage) -> bool:
    """Whether a stage goes on with the heads of the checkpoint that it starts from; stages trained together as all."""
    return config.tasks.heads_of.get(stage.name, config.tasks.heads) == "carried"


def newest_checkpoint(folder: Path, runtime: Runtime) -> Path | None:
    """Where a stage goes on from, None at its start: one choice for all ranks, of the first.

    Raises CheckpointError when there are checkpoints and none is sound: what is lost is not for a program to decide.
    """
    found: list[Path] = []

    def choose() -> None:
        if (path := latest_valid(folder)) is not None:
            found.append(path)
        elif any(folder.glob("step-*")):
            raise CheckpointError(f"no checkpoint in {folder} is whole; remove them to train this stage from its start")

    runtime.on_rank_zero(choose)
    said = runtime.broadcast(str(found[0]) if found else "")
    return Path(said) if said else None


def resume(checkpoint: Path, model: PretrainingModel, state: dict[str, Any]) -> dict[str, Any]:
    """Fills a model from a checkpoint of the same stage and returns its state.

    Raises CheckpointError if something changed that decides what is computed: any of `state`.
    """
    # What checkpoints of earlier versions do not say.
    saved = {"order": _order_name(None), "tasks": state.get("tasks"), **read_manifest(checkpoint).state}
    for name, value in state.items():
        if saved.get(name) != value:
            raise CheckpointError(
                f"{checkpoint} was saved with {name} {saved.get(name)}, now it is {value}; bring back what changed, "
                "or start again with another --run-dir"
            )
    load_part(model, read_tensors(checkpoint / WEIGHTS), "", where=checkpoint)
    return saved


def build_engine(job: Job, model: PretrainingModel, *, batch_size: int, saved: Path | None) -> Engine:
    """The engine around a model, with the moments and the loss scale of the checkpoint that filled it, if one did."""
    runtime = job.runtime
    if job.execution.compile:
        compile_layers(model.backbone, runtime.device)
    engine = Engine(model, optim=job.config.optim, execution=job.execution, batch_size=batch_size, runtime=runtime)
    if saved is not None:
        load_optimizer(saved, engine, runtime)
    return engine


def fitted(job: Job, model: PretrainingModel, loader: BatchLoader, *, batch_size: int) -> Job:
    """The job with a micro batch that fits, if it is to be found out. Raises InputError."""
    if not job.fits_micro_batch:
        return job
    if loader.blocks is not None:
        raise InputError(
            "--micro-batch auto reads the longest texts first, for which all shards have to be here; raise "
            "--cache-limit, or give a number"
        )
    found = fitting_micro_batch(model, loader, job.execution, job.runtime, batch_size=batch_size)
    return dataclasses.replace(job, execution=dataclasses.replace(job.execution, micro_batch=found))


def order_pairs(config: RunConfig, readers: list[Reader], *, batch_size: int, blocks: BlockPlan | None) -> OrderChoice:
    """The order in which a stage reads its pairs. blocks: in which their shards come, None where all are here."""
    return choose_order(
        [reader.keys for reader in readers],
        [reader.lengths for reader in readers],
        seed=config.seed,
        batch_size=batch_size,
        length_buckets=config.length_buckets,
        blocks=blocks.pairs if blocks else None,
    )


def train_stage(job: Job, stage: Stage, data: StageData, *, folder: Path, start_from: Path | None) -> None:
    """Trains one stage, from its own last checkpoint if it has one, else from `start_from`."""
    config, runtime = job.config, job.runtime
    schedule = stage.schedule(config.schedule)
    readers = [Reader(one) for one in data.train]
    plan = plan_stage_blocks(job, stage, data)
    blocks = Blocks(plan[0], readers, plan[1]) if plan else None
    choice = order_pairs(config, readers, batch_size=schedule.batch_size, blocks=plan[0] if plan else None)
    num_steps = schedule.epochs * choice.order.batches_per_epoch
    num_steps = min(num_steps, config.max_steps or num_steps)
    context = build_context(config, data)
    saved = newest_checkpoint(folder / "checkpoints", runtime)
    model = build_pretraining_model(config, stage, context.to(runtime.device), start_from=None if saved else start_from)
    state = {
        "seed": config.seed,
        "batch_size": schedule.batch_size,
        "num_steps": num_steps,
        "length_buckets": choice.buckets,
        "order": _order_name(blocks),
        "tasks": [task.name for task in stage.tasks],
        "indexes": [one.index_sha256 for one in data.train],
    }
    before = resume(saved, model, state) if saved else {}
    start = int(before.get("step", 0))
    loader = BatchLoader(stage.parts, readers, context, runtime, blocks)
    job = fitted(job, model, loader, batch_size=schedule.batch_size)
    engine = build_engine(job, model, batch_size=schedule.batch_size, saved=saved)
    announce(stage, schedule, readers, num_steps=num_steps, start=start)
    _announce_order(stage, choice, blocks)
    watched = (*data.train, *data.validation)
    precision = job.execution.precision
    guards = build_guards(job.limits, folder, watched, stage=stage.name, precision=precision, runtime=runtime)
    held_out = BatchLoader(stage.parts, [Reader(one) for one in data.validation], context, runtime)
    metric_logger = MetricLogger(folder, name=stage.name, num_steps=num_steps, start=start, speaks=runtime.is_first)
    loop = StageLoop(
        engine=engine,
        loader=loader,
        validation=held_out if data.validation else None,
        order=choice.order,
        metric_logger=metric_logger,
        runtime=runtime,
        stop=job.stop,
        saver=Saver(folder / "checkpoints", keep=job.keep, runtime=runtime, alive=guards.watchdog.alive),
        guards=guards,
        state={**state, **_told(job, stage)},
        seed=config.seed,
        num_steps=num_steps,
        save_every=job.save_every,
        start=start,
        validated=_numbers(before.get("validated")),
        show=showing(model, held_out, metric_logger),
        throughput=pace_of(config, job.execution, runtime),
    )
    metric_logger.introduce({"config": config_text(config), "stages": stage_text(job.planned, config)})
    told = partial(conclude, metric_logger, config, stage, execution=job.execution, ranks=runtime.world_size)
    checkpoint, results = _run(loop, then=told)
    finished = {"stage": stage.name, "steps": num_steps, "checkpoint": checkpoint.name, "validation": results}
    runtime.on_rank_zero(partial(mark_finished, folder, finished))
    engine.close()


def _run(loop: StageLoop, *, then: Callable[[], None]) -> tuple[Path, Mapping[str, float]]:
    """Trains, does what comes `then`, and lets go of what the loop holds, whatever comes of it."""
    try:
        with loop.guards.watching():
            checkpoint, results = loop.run()
        then()
        return checkpoint, results
    except torch.OutOfMemoryError:
        pass  # with the exception go the frames that hold the activations
    finally:
        loop.metric_logger.close()
        loop.loader.close()
        loop.saver.close()
    engine = loop.engine
    micro_batch = engine.engine.train_micro_batch_size_per_gpu()
    raise out_of_memory(engine.engine.module, loop.loader, engine.execution, loop.runtime, micro_batch=micro_batch)


def _numbers(saved: Mapping[str, float | None] | None) -> Mapping[str, float] | None:
    """A validation as a checkpoint keeps it: what is not a number is null there."""
    return None if saved is None else {name: math.nan if one is None else one for name, one in saved.items()}


def _announce_order(stage: Stage, choice: OrderChoice, blocks: Blocks | None) -> None:
    told = "on: they save" if choice.buckets else "off: they would save"
    log.info("%s: length buckets %s %.1f %% of the text slots", stage.name, told, 100 * choice.saved_ratio)
    if blocks is not None:
        log.info("%s: shards come while it trains, pairs %s", stage.name, _order_name(blocks))


def _order_name(blocks: Blocks | None) -> str:
    """How the pairs are ordered, beside the seed: a run continues in the order that it began."""
    count = 1 if blocks is None else blocks.plan.num_blocks
    return "from the whole set" if count == 1 else f"in {count} blocks, as --cache-limit decides"


def _told(job: Job, stage: Stage) -> dict[str, Any]:
    """What a checkpoint says for its readers; a run may go on in another way."""
    return {
        "stage": stage.name,
        "config": to_json(job.config),
        "execution": to_json(job.execution),
        "ranks": job.runtime.world_size,
    }
