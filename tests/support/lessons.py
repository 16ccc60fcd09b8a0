"""A model of a few thousand weights and batches for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tiny
import torch

from msp_ds.config import OptimConfig
from msp_ds.curriculum import curriculum
from msp_ds.model.encoder import Backbone
from msp_ds.records import Batch
from msp_ds.training.checkpointing.checkpoint import WEIGHTS, load_part, read_tensors
from msp_ds.training.checkpointing.saving import Saver, load_optimizer
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine
from msp_ds.training.engine.execution import Execution
from msp_ds.training.pretraining_model import PretrainingModel

MODEL = dataclasses.replace(tiny.CONFIG, dropout=0.0)
OPTIM = OptimConfig(lr=0.01, clip_norm=0.1)
"""A rate at which weights move, a norm at which every gradient is clipped."""
TASKS = curriculum("t")[0].tasks

LEAVE = "import os, sys; sys.stdout.flush(); os._exit(0)\n"
"""Ends a script that several ranks ran, past the tear-down in which a thread of gloo may abort: see run_command."""


def a_learner(stage: str = "t", *, seed: int = 0) -> PretrainingModel:
    """Fresh weights for a stage."""
    torch.manual_seed(seed)
    # High probabilities, so that every task has target positions among the few pairs.
    context = tiny.context(token_probability=0.5, region_probability=0.3, ifrs_probability=1.0)
    return PretrainingModel(Backbone(MODEL), curriculum(stage)[0].tasks, context)


def a_batch(seed: int, *, pairs: int = 4) -> Batch:
    """Pairs that differ from seed to seed."""
    return tiny.a_batch([8] * pairs, [6] * pairs, seed=seed)


def an_engine(model: PretrainingModel, runtime: Runtime, *, batch_size: int = 4, **execution: Any) -> Engine:
    """DeepSpeed's engine around a model, in fp32 unless said otherwise."""
    return Engine(
        model,
        optim=OPTIM,
        execution=Execution(**{"precision": "fp32", **execution}),
        batch_size=batch_size,
        runtime=runtime,
    )


def one_step(engine: Engine, runtime: Runtime, *batches: Batch) -> None:
    """Trains the token stage's tasks on micro batches."""
    for batch in batches:
        engine.backward(engine.engine(batch.to(runtime.device), TASKS, 0).total)
        engine.step()


def a_save(folder: Path, engine: Engine, runtime: Runtime, *, step: int = 1, keep: int = 2, **state: Any) -> Path:
    """A checkpoint of an engine, written and waited for."""
    saver = Saver(folder, keep=keep, runtime=runtime)
    saver.save(engine, step=step, state=state)
    saver.finish()
    saver.close()
    return saver.path(step)


def an_engine_from(path: Path, runtime: Runtime, **how: Any) -> Engine:
    """An engine that goes on from a checkpoint, executed in any way."""
    model = a_learner(seed=77)
    load_part(model, read_tensors(path / WEIGHTS), "", where=path)
    engine = an_engine(model, runtime, **how)
    load_optimizer(path, engine, runtime)
    return engine
