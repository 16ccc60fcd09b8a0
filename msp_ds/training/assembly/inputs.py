"""What a stage reads: its shard sets, the order of their pairs, and what its tasks know of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from msp_ds.config import RunConfig
from msp_ds.curriculum import Stage
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.block_plan import BlockPlan, plan_blocks
from msp_ds.data.loading.order import OrderChoice, choose_order
from msp_ds.data.loading.reader import Reader
from msp_ds.data.loading.subset import fewer_pairs
from msp_ds.data.remote.blocks import Blocks, BlockSource, block_source
from msp_ds.tasks.task import Context
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.distributed.runtime import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageData:
    """The shard sets of a stage, one per granularity."""

    train: tuple[ShardSet, ...]
    validation: tuple[ShardSet, ...]  # empty when the shards hold nothing out


@dataclass(frozen=True, kw_only=True)
class StageInputs:
    """The batches of a stage, on one rank."""

    data: StageData
    loader: BatchLoader
    held_out: BatchLoader | None  # reads the pairs of validation; None when the shards hold nothing out
    choice: OrderChoice
    num_steps: int


def open_stage_data(shards: Path, stage: Stage, *, max_pairs: int | None = None, seed: int = 0) -> StageData:
    """Open the sets of every granularity of a stage.

    max_pairs: pairs to keep of each training set, chosen by `seed`; None keeps all.
    """
    train = tuple(open_set(shards / part.name / "train") for part in stage.parts)
    if max_pairs is not None:
        train = tuple(fewer_pairs(one, max_pairs, seed=seed) for one in train)
    held_out = [shards / part.name / "val" for part in stage.parts]
    missing = [str(path) for path in held_out if not path.is_dir()]
    if missing and len(missing) < len(held_out):
        log.warning("%s is not validated: %s is missing", stage.name, " and ".join(missing))
    validation = () if missing else tuple(open_set(path) for path in held_out)
    return StageData(train=train, validation=validation)


def open_inputs(config: RunConfig, stage: Stage, data: StageData, runtime: Runtime) -> StageInputs:
    """Order the pairs of a stage and build what reads them. Raises InputError."""
    readers = [Reader(one) for one in data.train]
    plan, source = plan_stage_blocks(config, stage, data) or (None, None)
    choice = order_pairs(config, stage, readers, blocks=plan)
    num_steps = stage.schedule(config.schedule).epochs * choice.order.batches_per_epoch
    context = build_context(config, data)
    held_out = [Reader(one) for one in data.validation]
    return StageInputs(
        data=data,
        loader=BatchLoader(
            stage.parts, readers, context, runtime, Blocks(plan, readers, source) if plan and source else None
        ),
        held_out=BatchLoader(stage.parts, held_out, context, runtime) if held_out else None,
        choice=choice,
        num_steps=min(num_steps, config.max_steps or num_steps),
    )


def plan_stage_blocks(config: RunConfig, stage: Stage, data: StageData) -> tuple[BlockPlan, BlockSource] | None:
    """Return the blocks in which a stage's shards are fetched, and from where; None for shards that are all here.

    Raises InputError when the cache cannot hold the blocks of a batch.
    """
    source = block_source(data.train)
    if source is None:
        return None
    batch_size = stage.schedule(config.schedule).batch_size
    limits = {"limit": source.limit, "kept": source.kept}
    return plan_blocks(data.train, **limits, seed=config.seed, batch_size=batch_size), source


def order_pairs(config: RunConfig, stage: Stage, readers: Sequence[Reader], *, blocks: BlockPlan | None) -> OrderChoice:
    """Choose the order in which a stage reads its pairs. blocks: None for shards that are all here."""
    return choose_order(
        [reader.keys for reader in readers],
        [reader.lengths for reader in readers],
        seed=config.seed,
        batch_size=stage.schedule(config.schedule).batch_size,
        length_buckets=config.length_buckets,
        blocks=blocks.pairs if blocks else None,
    )


def build_context(config: RunConfig, data: StageData) -> Context:
    """Return what the tasks know of the run and its shards, on the CPU, where the loader samples images."""
    first = data.train[0]  # check_agreement has made sure that the others have the same tables
    return Context(
        seed=config.seed,
        epoch=0,
        options=config.tasks,
        tables=first.tables(),
        feature_mean=torch.from_numpy(first.feature_mean),
    )
