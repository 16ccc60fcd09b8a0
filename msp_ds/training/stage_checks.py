"""What would end a run before its first step, found before anything is written."""

from __future__ import annotations

import torch

from msp_ds.config import RunConfig
from msp_ds.curriculum import Granularity, Stage
from msp_ds.data.format.requirements import (
    require_hard_negatives,
    require_labels,
    require_questions,
    require_same_words,
)
from msp_ds.data.format.set_layout import shard_command
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.order import Order
from msp_ds.errors import InputError, ShardError
from msp_ds.training.engine.execution import accumulation
from msp_ds.training.stage import Job, StageData, plan_stage_blocks


def check_agreement(sets: list[ShardSet], config: RunConfig) -> None:
    """Raises ShardError unless all sets fit the model: the same vocabulary, feature width and label lists."""
    for one in sets:
        require_same_words(sets[0], one)
        if one.index.answers_sha256 != config.answers_sha256:
            raise ShardError(f"{one.path} has other answers to choose from than the run; write both splits together")
        if one.index.max_tokens > config.model.max_positions:
            raise ShardError(
                f"{one.path} has texts of up to {one.index.max_tokens} pieces, the model {config.model.max_positions} "
                "positions; raise --set model.max_positions"
            )
        for name in ("vocab_size", "feature_width", "num_objects", "num_attributes"):
            theirs, ours = getattr(one.index, name), getattr(config.model, name)
            if theirs != ours:
                raise ShardError(
                    f"{one.path} has {name} {theirs}, the model {ours}; write all stages with the same recipe: "
                    f"{shard_command(one.index.stage)} --recipe FILE"
                )


def check_stage(job: Job, stage: Stage, data: StageData) -> None:
    """Raises InputError for what would end a stage before its first step, so that a run fails before it is written."""
    schedule, ranks = stage.schedule(job.config.schedule), job.runtime.world_size
    keys = [torch.from_numpy(one.pairs.keys) for one in data.train]
    Order(keys, seed=job.config.seed, batch_size=schedule.batch_size)
    plan_stage_blocks(job, stage, data)
    accumulation(job.execution, batch_size=schedule.batch_size, world_size=ranks)
    if job.execution.zero_stage > 0 and job.execution.precision == "fp16" and job.runtime.device.type == "cpu":
        raise InputError("fp16 with ZeRO needs a GPU; give another --ds-config, for example ds_configs/cpu_fp32.json")
    if job.execution.zero_stage == 3 and len(stage.parts) > 1:
        raise InputError(
            "ZeRO 3 re-applies the old gradient of a head that a step leaves out, as the steps of a mixed stage do; "
            f"set zero_stage to 2 to train {stage.name} together"
        )
    for part, one in zip((*stage.parts, *stage.parts), (*data.train, *data.validation), strict=False):
        if one.index.num_pairs < ranks:
            raise ShardError(f"{one.path} has {one.index.num_pairs} pairs for {ranks} ranks; use fewer ranks")
        _check_needs(job, part, one)


def _check_needs(job: Job, part: Granularity, one: ShardSet) -> None:
    """Raises ShardError unless a set brings what its part's tasks ask about."""
    if any(task.needs_labels for task in part.tasks):
        # Of all stages, so that the fix need not be fixed at the next one.
        tasks = dict.fromkeys(task.name for each in job.planned for task in each.tasks if task.needs_labels)
        require_labels(one, tasks=list(tasks))
    needy = [task.name for task in part.tasks if task.pair_sampler and task.pair_sampler.uses_hard_negatives]
    if needy and job.config.tasks.itm_negatives == "hard":
        require_hard_negatives(one, task=needy[0])
    for task in part.tasks:
        if task.needs_questions:
            questions = require_questions(one, task=task.name)
            if one.comes_by_block and (questions.second_images >= 0).any():
                raise ShardError(
                    f"{one.path} is larger than --cache-limit, and task {task.name} needs both images of a statement "
                    "at once; raise the limit until the set fits"
                )
