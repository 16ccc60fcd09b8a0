"""The folder of a run: run.json, a folder a stage, and their checkpoints. Needs no DeepSpeed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msp_ds.config import ModelConfig, RunConfig, from_json, read_json
from msp_ds.curriculum import Stage
from msp_ds.data.shards import ShardSet
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.training.checkpoint import BEST, MANIFEST, checkpoints, flaw, newest_sound
from msp_ds.training.execution import Execution
from msp_ds.training.weights_folder import VOCAB_FILE, is_weights_folder, read_card

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
"""The whole configuration of a run, what it was made with, and the hashes of its shards' indexes."""
STAGE_FILE = "stage.json"
"""Written when a stage is finished: its steps, its checkpoint and its last validation."""

_CARD = "a run's configuration, written by msp-ds train"

TRUNK_FIELDS = (
    "encoder",
    "hidden_size",
    "num_layers",
    "language_layers",
    "region_layers",
    "visual_cls",
    "positions",
    "num_heads",
    "intermediate_size",
    "layer_norm_eps",
    "max_positions",
    "vocab_size",
    "feature_width",
)
"""Of ModelConfig: what decides the shape and the meaning of a trunk's weights."""
HEAD_FIELDS = {"region_gate": "region", "topic_head": "topic", "num_objects": "region", "num_attributes": "region"}
"""Of ModelConfig: what decides beside them a head's weights -> the head."""


def stage_folders(run: Path, stages: tuple[Stage, ...]) -> list[Path]:
    """The folder of each stage: `1-token`, `2-phrase`, ..."""
    return [run / f"{number}-{stage.name}" for number, stage in enumerate(stages, start=1)]


def has_begun(folder: Path) -> bool:
    """Whether a stage is finished or has a checkpoint to continue from."""
    return (folder / STAGE_FILE).is_file() or bool(checkpoints(folder / "checkpoints"))


def is_finished(folder: Path) -> bool:
    """Whether a stage has come to its end and its last checkpoint is there."""
    if not (folder / STAGE_FILE).is_file():
        return False
    found = flaw(stage_checkpoint(folder))
    if found:
        log.warning("%s was finished, but %s: it is trained on from what is there", folder, found)
    return not found


def find_checkpoint(path: Path) -> Path:
    """The newest sound checkpoint of a run or stage folder; a checkpoint or weights folder; what `best` names."""
    if (path / MANIFEST).is_file() or is_weights_folder(path):
        return path
    if path.name == BEST and path.is_file():
        return path.with_name(path.read_text(encoding="utf-8").strip())
    stages = sorted(path.glob("[0-9]*-*")) if (path / RUN_FILE).is_file() else [path]
    for stage in reversed(stages):
        found = newest_sound(stage / "checkpoints")
        if found:
            return found
    raise CheckpointError(f"{path} holds no complete checkpoint; give the folder of a run, as runs/tps")


def run_of_checkpoint(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to: run/stage/checkpoints/step."""
    above = checkpoint.resolve().parents
    run = above[min(2, len(above) - 1)]
    if not (run / RUN_FILE).is_file():
        raise CheckpointError(f"{checkpoint} lies in no run folder: {RUN_FILE} is missing three levels above it")
    return run


def read_run_config(run: Path) -> RunConfig:
    """The configuration that a run was started with."""
    return from_json(RunConfig, _read_run_file(run, "config"), where=str(run / RUN_FILE))


def read_run_execution(run: Path) -> Execution:
    """How a run was executed when it was started or last resumed."""
    resumed = read_run_card(run).get("resumed") or [{}]
    last = resumed[-1].get("execution") or _read_run_file(run, "execution")
    return from_json(Execution, last, where=str(run / RUN_FILE))


def read_run_card(run: Path) -> dict[str, Any]:
    """All of a run's run.json."""
    saved = read_json(run / RUN_FILE, what=_CARD)
    if not isinstance(saved, dict):
        raise CheckpointError(f"{run / RUN_FILE} should be {_CARD}, but is no table")
    return saved


def _read_run_file(run: Path, part: str) -> Any:
    saved = read_run_card(run)
    if part not in saved:
        raise CheckpointError(f"{run / RUN_FILE} should be {_CARD}, but has no {part}")
    return saved[part]


def check_same_data(run: Path, found: Mapping[str, str]) -> None:
    """Raises ShardError unless the sets of a resumed run, `found`: stage/split -> sha256 of the index, are its own."""
    written: dict[str, str] = _read_run_file(run, "index_sha256")
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            change = "is new" if name not in written else "is gone" if name not in found else "has changed"
            raise ShardError(
                f"shard set {name} {change} since {run} was started; bring back the shards that it was started with, "
                "or start a new run without --resume"
            )


def check_same_trunk(checkpoint: Path, config: RunConfig, *, heads: Collection[str] = ()) -> None:
    """Raises CheckpointError unless a checkpoint's trunk, and those of its `heads` that are carried, fit a new run."""
    theirs = origin_of(checkpoint)
    for name in (*TRUNK_FIELDS, *(name for name, head in HEAD_FIELDS.items() if head in heads)):
        there, here = getattr(theirs.model, name), getattr(config.model, name)
        if there != here:
            raise CheckpointError(
                f"{checkpoint} is of another model: its {name} is {there}, here it is {here}; "
                f"check --preset ({theirs.made_as}) and the shards"
            )
    if "answer" in heads and theirs.answers_sha256 not in (None, config.answers_sha256):
        raise CheckpointError(
            f"{checkpoint} chooses among other answers than those of {config.shards}, so its answer head means "
            "something else there; write the shards with its answers: --answers FILE"
        )
    if theirs.vocabulary_sha256 is None:
        log.warning("%s does not say which word pieces it knows: only their number is compared", checkpoint)
    elif theirs.vocabulary_sha256 != config.vocabulary_sha256:
        raise CheckpointError(
            f"{checkpoint} was trained on another vocabulary than that of {config.shards}; "
            f"write the shards with {theirs.words}"
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the weights of a checkpoint or a weights folder are of."""

    model: ModelConfig
    vocabulary_sha256: str | None
    """None where nobody said which word pieces brought-in weights know."""
    made_as: str
    """For messages: `it was trained with tiny`."""
    words: str
    """For messages: what shards with its word pieces are written with."""
    curriculum: str | None
    """What it was trained on, as RunConfig spells it; None for weights that were not trained here."""
    answers_sha256: str | None
    """Of the answers that its head chooses from; None where it has none, or nobody said which."""
    config: RunConfig | None
    """Of the run; None for a weights folder."""


def origin_of(checkpoint: Path) -> Origin:
    """What a checkpoint or a weights folder, as `find_checkpoint` gives it, is of."""
    if is_weights_folder(checkpoint):
        card = read_card(checkpoint)
        words = f"--vocab {checkpoint / VOCAB_FILE}"
        return Origin(
            model=card.model,
            vocabulary_sha256=card.vocabulary_sha256,
            made_as=f"it is {card.source}",
            words=words,
            curriculum=card.history.curriculum if card.history else None,
            answers_sha256=card.answers_sha256,
            config=None,
        )
    config = read_run_config(run_of_checkpoint(checkpoint))
    return Origin(
        model=config.model,
        vocabulary_sha256=config.vocabulary_sha256,
        made_as=f"it was trained with {config.preset}",
        words=f"the recipe of {config.shards}",
        curriculum=config.curriculum,
        answers_sha256=config.answers_sha256,
        config=config,
    )


def results_folder(checkpoint: Path) -> Path:
    """Where results for a checkpoint go unless said otherwise: into its run, or into the weights folder itself."""
    return checkpoint if is_weights_folder(checkpoint) else run_of_checkpoint(checkpoint)


def model_for(model: ModelConfig, shards: ShardSet) -> ModelConfig:
    """A preset's model with the sizes that the shards decide."""
    return dataclasses.replace(
        model,
        vocab_size=shards.index.vocab_size,
        feature_width=shards.index.feature_width,
        num_objects=shards.index.num_objects,
        num_attributes=shards.index.num_attributes,
        num_answers=len(shards.questions.answers) if shards.questions else 0,
    )


def stage_checkpoint(folder: Path) -> Path:
    """The final checkpoint of a finished stage."""
    finished = read_json(folder / STAGE_FILE, what="the mark of a finished stage")
    return folder / "checkpoints" / str(finished["checkpoint"])


def newest_run(runs: Path) -> Path:
    """The run that was started last."""
    found = sorted(runs.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"there is no run in {runs} to resume; start one with: msp-ds train --curriculum tps")
    return found[-1].parent


def fresh_folder(wanted: Path) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3` ... where a run lies there already."""
    folder, number = wanted, 1
    while (folder / RUN_FILE).exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
