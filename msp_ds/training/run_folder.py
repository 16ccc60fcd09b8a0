"""The folder of a run: run.json, a folder a stage, and their checkpoints. Needs no DeepSpeed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from msp_ds.config import ModelConfig, RunConfig, from_json, read_json
from msp_ds.curriculum import Stage
from msp_ds.data.shards import ShardSet
from msp_ds.errors import CheckpointError
from msp_ds.training.checkpoint import MANIFEST, checkpoints

RUN_FILE = "run.json"
"""The whole configuration of a run, what it was made with, and the hashes of its shards' indexes."""
STAGE_FILE = "stage.json"
"""Written when a stage is finished: its steps, its checkpoint and its last validation."""


def stage_folders(run: Path, stages: tuple[Stage, ...]) -> list[Path]:
    """The folder of each stage: `1-token`, `2-phrase`, ..."""
    return [run / f"{number}-{stage.name}" for number, stage in enumerate(stages, start=1)]


def find_checkpoint(path: Path) -> Path:
    """The newest complete checkpoint of a run folder, a stage folder or a checkpoint folder."""
    if (path / MANIFEST).is_file():
        return path
    stages = sorted(path.glob("[0-9]*-*")) if (path / RUN_FILE).is_file() else [path]
    for stage in reversed(stages):
        found = checkpoints(stage / "checkpoints")
        if found:
            return found[-1]
    raise CheckpointError(f"{path} holds no complete checkpoint; give the folder of a run, as runs/tps")


def run_of_checkpoint(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to: run/stage/checkpoints/step."""
    run = checkpoint.resolve().parents[2]
    if not (run / RUN_FILE).is_file():
        raise CheckpointError(f"{checkpoint} lies in no run folder: {RUN_FILE} is missing three levels above it")
    return run


def read_run_config(run: Path) -> RunConfig:
    """The configuration that a run was started with."""
    saved = read_json(run / RUN_FILE, what="a run's configuration, written by msp-ds train")
    return from_json(RunConfig, saved["config"], where=str(run / RUN_FILE))


def model_for(model: ModelConfig, shards: ShardSet) -> ModelConfig:
    """A preset's model with the sizes that the shards decide."""
    return dataclasses.replace(
        model,
        vocab_size=shards.index.vocab_size,
        feature_width=shards.index.feature_width,
        num_objects=shards.index.num_objects,
        num_attributes=shards.index.num_attributes,
    )


def stage_checkpoint(folder: Path) -> Path:
    """The final checkpoint of a finished stage."""
    finished = read_json(folder / STAGE_FILE, what="the mark of a finished stage")
    return folder / "checkpoints" / str(finished["checkpoint"])
