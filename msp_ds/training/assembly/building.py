"""What is built for a stage: the model and the engine around it, perhaps from the last checkpoint of the stage."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from msp_ds.config import OptimConfig, RunConfig
from msp_ds.curriculum import Stage
from msp_ds.errors import CheckpointError
from msp_ds.model.encoder import Backbone
from msp_ds.stateless_random import BACKBONE_WEIGHTS, STAGE_HEADS, key_of
from msp_ds.tasks.task import Context
from msp_ds.training.checkpointing.checkpoint import (
    WEIGHTS,
    latest_valid,
    load_backbone,
    load_heads,
    load_part,
    read_manifest,
    read_tensors,
)
from msp_ds.training.checkpointing.saving import load_optimizer
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.compiling import compile_layers
from msp_ds.training.engine.engine import Engine
from msp_ds.training.engine.execution import Execution
from msp_ds.training.pretraining_model import PretrainingModel

log = logging.getLogger(__name__)

WHOLE_SET = "from the whole set"  # name of the order that does not depend on blocks


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a stage continues; without arguments, its beginning."""

    step: int = 0  # optimiser steps that are done
    validated: Mapping[str, float] | None = None
    """Results of the validation after that step; None if there was none."""


def build_pretraining_model(
    config: RunConfig, stage: Stage, context: Context, start_from: Path | None
) -> PretrainingModel:
    """Build a backbone, random or from a checkpoint, under fresh or carried heads."""
    # Each is seeded on its own, so that its weights depend on the seed alone: the heads' do not change with the size
    # of the backbone, nor with whether a checkpoint is loaded into it.
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
    """Return whether a stage keeps the heads of the checkpoint that it starts from."""
    return config.tasks.heads_of.get(stage.name, config.tasks.heads) == "carried"


def newest_checkpoint(folder: Path, runtime: Runtime) -> Path | None:
    """Return the checkpoint that a stage continues from, None at its start; rank 0 chooses for all ranks.

    Raises CheckpointError when there are checkpoints and none is valid: only the user may decide to lose them.
    """

    def choose() -> Path | None:
        if (path := latest_valid(folder)) is None and any(folder.glob("step-*")):
            raise CheckpointError(f"no checkpoint in {folder} is whole; remove them to train this stage from its start")
        return path

    path = runtime.broadcast(str(runtime.on_all_ranks(lambda: choose() if runtime.is_first else None) or ""))
    return Path(path) if path else None


def resume(checkpoint: Path, model: nn.Module, identity: Mapping[str, Any]) -> ResumePoint:
    """Load a checkpoint of the same stage into a model and return where the stage continues.

    Raises CheckpointError if anything in `identity`, which decides what is computed, has changed.
    """
    manifest = read_manifest(checkpoint)
    # Checkpoints of earlier versions lack these two.
    saved = {"order": WHOLE_SET, "tasks": identity.get("tasks"), **manifest.state}
    for name, value in identity.items():
        if saved.get(name) != value:
            raise CheckpointError(
                f"{checkpoint} was saved with {name} {saved.get(name)}, now it is {value}; bring back what changed, "
                "or start again with another --run-dir"
            )
    load_weights(model, checkpoint)
    validated = saved.get("validated")
    if validated is not None:  # JSON has no nan; to_json writes null
        validated = {name: math.nan if value is None else value for name, value in validated.items()}
    return ResumePoint(step=manifest.step, validated=validated)


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Load all weights of a checkpoint of the same stage into a model. Raises CheckpointError."""
    load_part(model, read_tensors(checkpoint / WEIGHTS), "", where=checkpoint)


def order_name(num_blocks: int) -> str:
    """Name how the pairs are ordered, beside the seed: a run must continue in the order in which it began."""
    return WHOLE_SET if num_blocks == 1 else f"in {num_blocks} blocks, as --cache-limit decides"


def build_engine(
    model: PretrainingModel,
    optim: OptimConfig,
    execution: Execution,
    runtime: Runtime,
    *,
    batch_size: int,
    saved: Path | None,
) -> Engine:
    """Build the engine around a model, with the optimiser state of the checkpoint `saved` that filled it, if any."""
    if execution.compile:
        compile_layers(model.backbone, runtime.device)
    engine = Engine(model, optim=optim, execution=execution, batch_size=batch_size, runtime=runtime)
    if saved is not None:
        load_optimizer(saved, engine, runtime)
    return engine
