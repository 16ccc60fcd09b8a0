"""A trained model from its checkpoint, in evaluation mode. DeepSpeed is not needed."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from msp_ds.config import RunConfig
from msp_ds.curriculum import BENCHMARKS
from msp_ds.data.format.requirements import require_same_detector
from msp_ds.data.format.set_layout import shard_command
from msp_ds.data.format.shards import ShardSet
from msp_ds.errors import CheckpointError, ShardError
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import ALL_HEADS, build_heads
from msp_ds.model.weights.conversion import SIZES, head_of, sizes_of, tied
from msp_ds.presets import get_preset
from msp_ds.training.checkpointing.checkpoint import check_part, load_part, read_weights
from msp_ds.training.checkpointing.run_folder import BACKBONE_FIELDS, Origin, find_checkpoint, origin_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A backbone with the heads it was trained with."""

    checkpoint: Path
    config: RunConfig | None
    """Of the run; None for a weights folder."""
    curriculum: str | None
    """As RunConfig.curriculum; None for imported weights."""
    backbone: Backbone
    heads: nn.ModuleDict


def load_trained(
    path: Path, *, shards: ShardSet | None, needed_heads: tuple[str, ...], preset: str | None
) -> TrainedModel:
    """The model of a run, checkpoint or weights folder, in fp32, in evaluation mode; compared with `shards` if any.

    Raises: CheckpointError when it lacks one of `needed_heads`, was fine-tuned for another benchmark or is not of
        `preset`; ShardError when the shards have another vocabulary, detector or answers than it was trained on.
    """
    checkpoint = find_checkpoint(path)
    origin = origin_of(checkpoint)
    if preset is not None:
        _check_preset(origin, preset, where=checkpoint)
    if shards is not None:
        if needed_heads:
            _check_benchmark(origin, shards.index.stage, where=checkpoint)
        backbone_alone = ("vocab_size", "feature_width")
        require_same_detector(shards, origin.detector, where=str(checkpoint))
        _check_words(origin, SIZES if origin.config else backbone_alone, shards)
        _check_answers(origin, shards, where=checkpoint)
    weights = _of_known_heads(tied(read_weights(checkpoint)))
    if shards is not None:
        _check_words(origin, sizes_of(weights), shards)
    present = sorted({head for name in weights if (head := head_of(name))})
    missing = [name for name in needed_heads if name not in present]
    if missing and shards is not None:
        raise CheckpointError(
            f"{checkpoint} has heads {', '.join(present)} but no {missing[0]} head; "
            + _training_of(shards.index.stage, origin, where=checkpoint)
        )
    with torch.device("meta"):  # compare the sizes before anything of such a size is allocated
        backbone = Backbone(origin.model)
        check_part(backbone, weights, "backbone.", where=checkpoint)
        if "answer" in present and shards is not None:
            _check_number_of_answers(origin.model.num_answers, shards, where=checkpoint)
        check_part(build_heads(present, origin.model, backbone), weights, "heads.", where=checkpoint)
    backbone = Backbone(origin.model)
    load_part(backbone, weights, "backbone.", where=checkpoint)
    heads = build_heads(present, origin.model, backbone)
    load_part(heads, weights, "heads.", where=checkpoint)
    backbone, heads = backbone.eval(), heads.eval()
    return TrainedModel(
        checkpoint=checkpoint, config=origin.config, curriculum=origin.curriculum, backbone=backbone, heads=heads
    )


def _check_preset(origin: Origin, preset: str, *, where: Path) -> None:
    wanted = get_preset(preset)
    if origin.config is not None:
        own = origin.config.preset
        if wanted != get_preset(own):
            raise CheckpointError(f"{where} is of preset {own}, not {preset}; leave --preset out or set it to {own}")
        return
    for name in (name for name in BACKBONE_FIELDS if name not in SIZES):
        there, here = getattr(origin.model, name), getattr(wanted.model, name)
        if there != here:
            raise CheckpointError(
                f"{where} is not of preset {preset}: its {name} is {there}, that of the preset {here}; "
                "leave --preset out"
            )


def _check_benchmark(origin: Origin, stage: str, *, where: Path) -> None:
    """Raise CheckpointError for a model that was fine-tuned for another benchmark than `stage`."""
    if origin.curriculum != stage and {origin.curriculum, stage} <= BENCHMARKS.keys():
        fix = _training_of(stage, origin, where=where)
        raise CheckpointError(f"{where} was fine-tuned for {origin.curriculum}, not for {stage}; {fix}")


def _check_answers(origin: Origin, shards: ShardSet, *, where: Path) -> None:
    """Raise ShardError where the shards' answer list is not the one that the answer head was trained on."""
    known = origin.answers_sha256
    if known is not None and shards.index.answers_sha256 not in (None, known):
        _check_benchmark(origin, shards.index.stage, where=where)
        raise ShardError(
            f"{shards.path} has other answers to choose from than {where} was trained on; write it with the "
            f"answers.json of its shards: {shard_command(shards.index.stage)} --answers answers.json"
        )


def _check_number_of_answers(num_answers: int, shards: ShardSet, *, where: Path) -> None:
    """Raise ShardError where an answer head with an unknown answer list has another number of answers."""
    if shards.questions is not None and len(shards.questions.answers) != num_answers:
        raise ShardError(
            f"{shards.path} has {len(shards.questions.answers)} answers to choose from, {where} {num_answers}; "
            "take the shards that it was fine-tuned on"
        )


def _training_of(stage: str, origin: Origin, *, where: Path) -> str:
    """For messages: the command that trains a model with the heads of a stage or benchmark."""
    if stage not in BENCHMARKS:
        return "train one with: msp-ds train --curriculum s"
    start: Path | str | None = where
    if origin.curriculum in BENCHMARKS:  # start from what that one was fine-tuned from
        start = origin.config.init if origin.config else "RUN"
    return f"train one with: msp-ds finetune --task {stage} " + (f"--init {start}" if start else "--from-scratch")


def _of_known_heads(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without heads that are not ours, which imported weights may hold."""
    foreign = sorted({head for name in weights if (head := head_of(name)) and head not in ALL_HEADS})
    if foreign:
        log.info("heads that are not used: %s", ", ".join(foreign))
    return {name: tensor for name, tensor in weights.items() if head_of(name) not in foreign}


def _check_words(origin: Origin, sizes: Iterable[str], shards: ShardSet) -> None:
    """Raise ShardError where the vocabulary or one of `sizes`, fields of ModelConfig, differs from the shards'."""
    same_words = origin.vocabulary_sha256 in (None, shards.index.vocabulary_sha256)
    if not same_words or any(getattr(origin.model, name) != getattr(shards.index, name) for name in sizes):
        raise ShardError(
            f"{shards.path} was written with another vocabulary, label list or feature width than the model was "
            f"trained on; write it with {origin.words}: {shard_command(shards.index.stage)} --recipe FILE"
        )
