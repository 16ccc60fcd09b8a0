"""A batch whose loss was not finite, read again from the shards: in fp32, on the CPU, with the weights of its stage.

The run notes only which batch it was (finite.py): a batch is a pure function of the seed, the step and the shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msp_ds.config import RunConfig
from msp_ds.curriculum import Stage, curriculum
from msp_ds.data.loading.block_plan import BlockPlan
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError, ShardError
from msp_ds.records import Batch
from msp_ds.stateless_random import DROPOUT, key_of
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.checkpointing.checkpoint import WEIGHTS, checkpoints, load_part, read_manifest, read_tensors
from msp_ds.training.checkpointing.run_folder import (
    check_same_data,
    find_parent,
    read_run_config,
    require_shards,
    run_of_checkpoint,
    stage_checkpoint,
)
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.guards.finite import BatchInfo, read_batch_info
from msp_ds.training.run import index_hashes
from msp_ds.training.stage import StageData, build_context, build_pretraining_model, open_stage_data, order_pairs


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What became of a batch the second time."""

    info: BatchInfo
    """Of the first time."""
    weights: str
    """Where the weights come from."""
    losses: Mapping[str, float]
    """Each task's and their weighted sum. One that is finite now and was not: 16 bits did it, or later weights."""
    gradient_norm: float
    faulty_inputs: tuple[str, ...]
    """Tensors of the batch that hold what is not a number."""

    def describe(self) -> str:
        """A few lines for a person."""
        info = self.info
        where = f"step {info.step + 1} of stage {info.stage}, epoch {info.epoch}, rank {info.rank}"
        lines = [f"{where}; weights of {self.weights}, fp32"]
        lines += [f"{name} {self.losses[name]:.6g} (was {info.losses[name]:.6g})" for name in sorted(self.losses)]
        lines += [f"the gradient's norm {self.gradient_norm:.6g}"]
        faults = ", ".join(self.faulty_inputs)
        return "\n".join([*lines, f"not finite in the batch itself: {faults}" if faults else "the batch is sound"])


def replay(path: Path, *, shards: Path | None = None, init: Path | None = None) -> Replay:
    """Runs a batch that a run noted through its tasks, with its masks, and its dropout if it was its step's first.

    The weights are those of the stage's last checkpoint before that step, or those it began with. shards: where they
    are on this machine, if not where the run says. init: the same of what its first stage started from.

    Raises InputError when the file is not a batch that was noted or does not lie in its run's folder, and ShardError
    when the shards are gone or have changed.
    """
    info = read_batch_info(path)
    folder = path.resolve().parents[1]
    run = run_of_checkpoint(folder / "checkpoints" / "any")
    moved: dict[str, Any] = {"shards": shards and str(shards), "init": init and str(init)}
    config = dataclasses.replace(read_run_config(run), **{name: path for name, path in moved.items() if path})
    stages = curriculum(config.curriculum, drop=config.drop)
    number = next((number for number, stage in enumerate(stages) if stage.name == info.stage), None)
    if number is None:
        raise InputError(f"{path} is of stage {info.stage}, which {folder.parent} does not have; leave it in its run")
    stage = stages[number]
    require_shards(run, config)
    data = open_stage_data(Path(config.shards), stage, max_pairs=config.max_pairs, seed=config.seed)
    check_same_data(run, index_hashes([data]))
    batch = rebuilt_batch(info, config, stage, data)
    context = build_context(config, data)
    saved = _last_before(folder, info.step)
    begun = None if saved else _beginning(config, folder, number)
    model = build_pretraining_model(config, stage, context, start_from=begun)
    if saved:
        load_part(model, read_tensors(saved / WEIGHTS), "", where=saved)
    torch.manual_seed(key_of(DROPOUT.format(seed=info.seed, part=info.part, step=info.step, rank=info.rank)))
    tasks = [task for task in stage.tasks if task.name in info.tasks]
    losses = model(batch, tasks, info.epoch)
    losses.total.backward()
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return Replay(
        info=info,
        weights=str(saved or begun or "the stage's beginning"),
        losses={name: metric.mean() for name, metric in losses.metrics.items() if name.startswith("loss/")},
        gradient_norm=float(torch.stack(norms).norm()),
        faulty_inputs=tuple(_faulty(batch)),
    )


def rebuilt_batch(info: BatchInfo, config: RunConfig, stage: Stage, data: StageData) -> Batch:
    """The clean batch that a rank trained on, read from the shards by the loader that the run read it with.

    Raises ShardError when not all tars are here, or when they give other pairs.
    """
    for one in data.train:
        if one.comes_by_block:
            raise ShardError(f"not all tars of {one.path} are here; give a folder that holds them all: --shards FOLDER")
    readers = [Reader(one) for one in data.train]
    plan = BlockPlan(data.train, seed=config.seed, num_blocks=info.num_blocks)
    batch_size = stage.schedule(config.schedule).batch_size
    order = order_pairs(config, readers, batch_size=batch_size, blocks=plan).order
    whole = order.batch(info.step)
    at_hand = zip(readers, plan.images(whole.epoch, whole.blocks), strict=True)
    loader = BatchLoader(
        stage.parts,
        [reader.among(images) for reader, images in at_hand],
        build_context(config, data),
        Runtime(rank=info.rank, world_size=info.ranks, device=torch.device("cpu")),
    )
    steps = loader.step_batches(order, start=info.step, end=info.step + 1, micro_batch=info.micro_batch)
    (batches,) = [step_batch.micro_batches for step_batch in steps]
    batch = batches[info.number] if info.number < len(batches) else None
    if batch is None or batch.keys.tolist() != list(info.keys):
        raise ShardError(
            f"step {info.step + 1} of stage {info.stage} has other pairs now than when the run trained on it; replay "
            "it with the version of msp-ds that noted it"
        )
    return batch


def _last_before(folder: Path, step: int) -> Path | None:
    """The stage's newest checkpoint of at most `step` steps."""
    found = [path for path in checkpoints(folder / "checkpoints") if read_manifest(path).step <= step]
    return found[-1] if found else None


def _beginning(config: RunConfig, folder: Path, number: int) -> Path | None:
    """What the stage started from; None for chance."""
    if number:
        (before,) = folder.parent.glob(f"{number}-*")
        return stage_checkpoint(before)
    return find_parent(folder.parent, config.init) if config.init else None


def _faulty(batch: Batch) -> list[str]:
    tensors = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if item.name != "corruption"}
    return [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
