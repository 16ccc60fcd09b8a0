"""A batch whose loss was not finite, scored again: in fp32, on the CPU, with the weights of its stage.

The run notes only which batch it was (guards/finite.py): a batch is a pure function of the seed, the step and the
shards. It is rebuilt by the functions with which a stage opens its shards, orders its pairs, reads its batches, builds
its model and seeds its dropout, so what is replayed is what was trained on.
"""

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
from msp_ds.training.assembly.building import build_pretraining_model, load_weights
from msp_ds.training.assembly.inputs import StageData, build_context, open_stage_data, order_pairs
from msp_ds.training.batch_loader import BatchLoader, StepBatch
from msp_ds.training.checkpointing import run_folder
from msp_ds.training.checkpointing.checkpoint import checkpoints, read_manifest
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.guards.finite import BatchInfo, read_batch_info
from msp_ds.training.pretraining_model import seed_dropout
from msp_ds.training.run import index_hashes


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Results of a batch that was scored again."""

    info: BatchInfo  # what the run noted, with the losses of the first time
    weights: str  # where the weights come from
    losses: Mapping[str, float]
    """Each task's loss and their weighted sum. Where one is finite now and was not, half precision or later weights
    were the reason."""
    gradient_norm: float
    faulty_inputs: tuple[str, ...]  # tensors of the batch that hold values that are not finite

    def describe(self) -> str:
        """Return a few lines for a person."""
        info = self.info
        where = f"step {info.step + 1} of stage {info.stage}, epoch {info.epoch}, rank {info.rank}"
        lines = [f"{where}; weights of {self.weights}, fp32"]
        lines += [f"{name} {self.losses[name]:.6g} (was {info.losses[name]:.6g})" for name in sorted(self.losses)]
        lines += [f"the gradient's norm {self.gradient_norm:.6g}"]
        faults = ", ".join(self.faulty_inputs)
        return "\n".join([*lines, f"not finite in the batch itself: {faults}" if faults else "the batch is valid"])


def replay(path: Path, *, shards: Path | None = None, init: Path | None = None) -> Replay:
    """Score a batch that a run noted, with its masks, and with its dropout if it was the first micro batch of its step.

    The weights are those of the stage's last checkpoint before that step, or those that it began with.

    Args:
        path: The file in which the run noted the batch.
        shards: Folder of the shards on this machine, if it is not the one that the run names.
        init: The same for what the run's first stage started from.

    Raises:
        InputError: The file is not a noted batch, or does not lie in its run's folder.
        ShardError: The shards are gone or have changed.
    """
    info = read_batch_info(path)
    folder = path.resolve().parents[1]
    run = run_folder.run_of_checkpoint(folder / "checkpoints" / "any")
    moved: dict[str, Any] = {"shards": shards and str(shards), "init": init and str(init)}
    config = dataclasses.replace(
        run_folder.read_run_config(run), **{name: path for name, path in moved.items() if path}
    )
    stages = curriculum(config.curriculum, drop=config.drop)
    number = next((number for number, stage in enumerate(stages) if stage.name == info.stage), None)
    if number is None:
        raise InputError(f"{path} is of stage {info.stage}, which {folder.parent} does not have; leave it in its run")
    stage = stages[number]
    run_folder.require_shards(run, config)
    data = open_stage_data(Path(config.shards), stage, max_pairs=config.max_pairs, seed=config.seed)
    run_folder.check_same_data(run, index_hashes([data]))
    step_batch = rebuild_step(info, config, stage, data)
    if (tasks := tuple(task.name for task in step_batch.part.tasks)) != info.tasks:
        raise InputError(
            f"{path} is of tasks {', '.join(info.tasks)}, but the run names {', '.join(tasks)}; replay cannot build "
            "tasks from outside the package"
        )

    earlier = (path for path in reversed(checkpoints(folder / "checkpoints")) if read_manifest(path).step <= info.step)
    saved = next(earlier, None)
    parent = None if saved else _parent(config, folder, number)
    model = build_pretraining_model(config, stage, build_context(config, data), start_from=parent)
    if saved:
        load_weights(model, saved)
    seed_dropout(info.seed, part=info.part, step=info.step, rank=info.rank)
    losses = step_batch.score(model, info.number)
    losses.total.backward()  # type: ignore[no-untyped-call]
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return Replay(
        info=info,
        weights=str(saved or parent or "the stage's beginning"),
        losses={name: metric.mean() for name, metric in losses.metrics.items() if name.startswith("loss/")},
        gradient_norm=float(torch.stack(norms).norm()),
        faulty_inputs=tuple(_faulty(step_batch.micro_batches[info.number])),
    )


def rebuild_step(info: BatchInfo, config: RunConfig, stage: Stage, data: StageData) -> StepBatch:
    """Read the step batch of a noted batch from the shards, with the loader that the run read it with.

    Raises ShardError when not all tars are here, or when they hold other pairs.
    """
    for one in data.train:
        if one.comes_by_block:
            raise ShardError(f"not all tars of {one.path} are here; give a folder that holds them all: --shards FOLDER")
    readers = [Reader(one) for one in data.train]
    plan = BlockPlan(data.train, seed=config.seed, num_blocks=info.num_blocks)
    order = order_pairs(config, stage, readers, blocks=plan).order
    # Images are sampled from the blocks that were here at that step.
    whole = order.batch(info.step)
    images = plan.images(whole.epoch, whole.blocks)
    loader = BatchLoader(
        stage.parts,
        [reader.among(some) for reader, some in zip(readers, images, strict=True)],
        build_context(config, data),
        Runtime(rank=info.rank, world_size=info.ranks, device=torch.device("cpu")),
    )
    steps = loader.step_batches(order, start=info.step, end=info.step + 1, micro_batch=info.micro_batch)
    (step_batch,) = steps
    keys = [batch.keys.tolist() for batch in step_batch.micro_batches]
    if info.number >= len(keys) or keys[info.number] != list(info.keys):
        raise ShardError(
            f"step {info.step + 1} of stage {info.stage} has other pairs now than when the run trained on it; replay "
            "it with the version of msp-ds that noted it"
        )
    return step_batch


def _parent(config: RunConfig, folder: Path, number: int) -> Path | None:
    if number:
        (before,) = folder.parent.glob(f"{number}-*")
        return run_folder.stage_checkpoint(before)
    return run_folder.find_parent(folder.parent, config.init) if config.init else None


def _faulty(batch: Batch) -> list[str]:
    tensors = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if item.name != "corruption"}
    return [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
