"""Checks that a run makes before it writes anything: whatever would end one of its stages ends the run at once."""

from collections.abc import Sequence

import torch

from msp_ds.config import RunConfig
from msp_ds.curriculum import Granularity, Stage
from msp_ds.data.format.requirements import (
    require_hard_negatives,
    require_labels,
    require_questions,
    require_same_detector,
    require_same_words,
)
from msp_ds.data.format.set_layout import shard_command
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.order import Order
from msp_ds.errors import InputError, ShardError
from msp_ds.training.assembly.inputs import StageData, plan_stage_blocks
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution, accumulation


def check_agreement(sets: list[ShardSet], config: RunConfig) -> None:
    """Raise ShardError unless all sets fit the model: the same vocabulary, feature width and label lists."""
    detector = config.detector or next((one.index.detector for one in sets if one.index.detector), None)
    for one in sets:
        require_same_words(sets[0], one)
        require_same_detector(one, detector, where="the run")
        if one.index.answers_sha256 != config.answers_sha256:
            raise ShardError(f"{one.path} has other answers to choose from than the run; write both splits together")
        if one.index.max_tokens > config.model.max_positions:
            raise ShardError(
                f"{one.path} has texts of up to {one.index.max_tokens} pieces, the model {config.model.max_positions} "
                "positions; raise --set model.max_positions"
            )
        for name in ("vocab_size", "feature_width", "num_objects", "num_attributes"):
            found, expected = getattr(one.index, name), getattr(config.model, name)
            if found != expected:
                raise ShardError(
                    f"{one.path} has {name} {found}, the model {expected}; write all stages with the same recipe: "
                    f"{shard_command(one.index.stage)} --recipe FILE"
                )


def check_stage(config: RunConfig, execution: Execution, runtime: Runtime, stage: Stage, data: StageData) -> None:
    """Raise InputError for what would end a stage before its first step."""
    batch_size, num_ranks = stage.schedule(config.schedule).batch_size, runtime.world_size
    keys = [torch.from_numpy(one.pairs.keys) for one in data.train]
    Order(keys, seed=config.seed, batch_size=batch_size)
    plan_stage_blocks(config, stage, data)
    accumulation(execution, batch_size=batch_size, world_size=num_ranks)
    if execution.zero_stage > 0 and execution.precision == "fp16" and runtime.device.type == "cpu":
        raise InputError("fp16 with ZeRO needs a GPU; give another --ds-config, for example ds_configs/cpu_fp32.json")
    if execution.zero_stage == 3 and len(stage.parts) > 1:
        raise InputError(
            "ZeRO 3 re-applies the old gradient of a head that a step leaves out, as the steps of a mixed stage do; "
            f"set zero_stage to 2 to train {stage.name} together"
        )
    for one in (*data.train, *data.validation):
        if one.index.num_pairs < num_ranks:
            raise ShardError(f"{one.path} has {one.index.num_pairs} pairs for {num_ranks} ranks; use fewer ranks")


def check_requirements(config: RunConfig, stages: Sequence[Stage], data: Sequence[StageData]) -> None:
    """Raise ShardError unless the sets of all stages hold what their tasks need."""
    with_labels = dict.fromkeys(task.name for stage in stages for task in stage.tasks if task.needs_labels)
    for stage, sets in zip(stages, data, strict=True):
        for part, one in zip((*stage.parts, *stage.parts), (*sets.train, *sets.validation), strict=False):
            if any(task.needs_labels for task in part.tasks):
                # Name the tasks of all stages, so that the user does not fix one set after the other.
                require_labels(one, tasks=list(with_labels))
            _check_part(config, part, one)


def _check_part(config: RunConfig, part: Granularity, one: ShardSet) -> None:
    for task in part.tasks:
        uses_hard_negatives = task.pair_sampler is not None and task.pair_sampler.uses_hard_negatives
        if uses_hard_negatives and config.tasks.itm_negatives == "hard":
            require_hard_negatives(one, task=task.name)
        if task.needs_questions:
            questions = require_questions(one, task=task.name)
            if one.comes_by_block and (questions.second_images >= 0).any():
                raise ShardError(
                    f"{one.path} is larger than --cache-limit, and task {task.name} needs both images of a statement "
                    "at once; raise the limit until the set fits"
                )
