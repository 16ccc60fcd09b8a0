"""A batch whose loss was not finite, looked at again: in fp32, on the CPU, with the weights of its stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msp_ds.config import RunConfig
from msp_ds.curriculum import curriculum
from msp_ds.errors import InputError
from msp_ds.records import Batch
from msp_ds.stateless_random import DROPOUT, key_of
from msp_ds.training.checkpointing.checkpoint import WEIGHTS, checkpoints, load_part, read_manifest, read_tensors
from msp_ds.training.checkpointing.run_folder import (
    check_same_data,
    find_parent,
    read_run_config,
    require_shards,
    run_of_checkpoint,
    stage_checkpoint,
)
from msp_ds.training.guards.finite import BatchInfo, read_batch


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
    """Runs a batch that a run kept through its tasks, with its masks, and its dropout if it was its step's first.

    The weights are those of the stage's last checkpoint before that step, or those it began with. shards: where they
    are on this machine, if not where the run says. init: the same of what its first stage started from.

    Raises InputError when the file is no kept batch, does not lie in its run's folder, or needs other shards.
    """
    from msp_ds.training.run import index_hashes  # imports DeepSpeed
    from msp_ds.training.stage import build_context, build_pretraining_model, open_stage_data

    batch, info = read_batch(path)
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
    data = open_stage_data(Path(config.shards), stage)
    check_same_data(run, index_hashes([data]))
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
