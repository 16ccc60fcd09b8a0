"""A trained model from its checkpoint, ready to answer; needs no DeepSpeed for checkpoints of ZeRO stage 0."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from msp_ds.config import RunConfig
from msp_ds.data.shards import ShardSet
from msp_ds.errors import CheckpointError, ShardError
from msp_ds.model.encoder import Trunk
from msp_ds.model.heads import build_heads
from msp_ds.presets import get_preset
from msp_ds.training.checkpoint import load_part, read_weights
from msp_ds.training.run_folder import find_checkpoint, model_for, read_run_config, run_of_checkpoint


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trunk with the heads it was trained with."""

    checkpoint: Path
    config: RunConfig
    trunk: Trunk
    heads: nn.ModuleDict


def load_trained(path: Path, *, shards: ShardSet, needed_heads: tuple[str, ...], preset: str | None) -> TrainedModel:
    """The model of a run or checkpoint, in fp32, in evaluation mode.

    Raises CheckpointError when it lacks a head that is needed or is not of the preset that was asked for, ShardError
    when the shards were written with another vocabulary than the model was trained on.
    """
    checkpoint = find_checkpoint(path)
    run = run_of_checkpoint(checkpoint)
    config = read_run_config(run)
    if preset is not None and get_preset(preset) != get_preset(config.preset):
        raise CheckpointError(
            f"{checkpoint} is of preset {config.preset}, not {preset}; leave --preset out or set it to {config.preset}"
        )
    _check_words(config, shards)
    if config.answers_sha256 is not None and shards.index.answers_sha256 not in (None, config.answers_sha256):
        raise ShardError(
            f"{shards.path} has other answers to choose from than {checkpoint} was trained on; write it with the "
            f"answers of {config.shards}: msp-ds shard --task {shards.index.stage} --answers answers.json"
        )
    weights = read_weights(checkpoint)
    present = sorted({name.split(".")[1] for name in weights if name.startswith("heads.")})
    missing = [name for name in needed_heads if name not in present]
    if missing:
        raise CheckpointError(
            f"{checkpoint} has heads {', '.join(present)} but no {missing[0]} head; "
            "take a checkpoint of a stage that trains it (the match head: the sentence stage)"
        )
    trunk = Trunk(config.model)
    load_part(trunk, weights, "trunk.", where=checkpoint)
    heads = build_heads(present, config.model, trunk)
    load_part(heads, weights, "heads.", where=checkpoint)
    return TrainedModel(checkpoint=checkpoint, config=config, trunk=trunk.eval(), heads=heads.eval())


def _check_words(config: RunConfig, shards: ShardSet) -> None:
    fitting = dataclasses.replace(model_for(config.model, shards), num_answers=config.model.num_answers)
    if fitting != config.model or config.vocabulary_sha256 != shards.index.vocabulary_sha256:
        raise ShardError(
            f"{shards.path} was written with another vocabulary, label list or feature width than the model was "
            f"trained on; write it with the recipe of {config.shards}: "
            f"msp-ds shard --stage {shards.index.stage} --recipe FILE"
        )
