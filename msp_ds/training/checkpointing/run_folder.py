"""The folder of a run: run.json, one folder per stage, and their checkpoints. It is read without DeepSpeed."""

import dataclasses
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from msp_ds.config import ModelConfig, RunConfig, from_json, read_json, write_json
from msp_ds.curriculum import Stage, curriculum
from msp_ds.data.format.shards import ShardSet
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.storage.checksums import sha256_of_file
from msp_ds.storage.small_files import is_plain_name, read_small_text
from msp_ds.training.checkpointing.checkpoint import BEST, MANIFEST, WEIGHTS, checkpoints, find_corruption, latest_valid
from msp_ds.training.checkpointing.weights_folder import VOCAB_FILE, is_weights_folder, read_card
from msp_ds.training.engine.execution import Execution

log = logging.getLogger(__name__)

T = TypeVar("T")

RUN_FILE = "run.json"
"""Holds the whole configuration of a run, its versions, and the hashes of its shards' indexes."""
STAGE_FILE = "stage.json"
"""Written when a stage is finished; holds its steps, its last checkpoint and its last validation."""

LOCATIONS = ("shards", "init")
"""Fields of RunConfig that are paths; a run can be resumed after the files were moved."""


_CARD = "a run's configuration, written by msp-ds train"

_AGAIN = "another version of msp-ds wrote it, or it was edited; train again with: msp-ds train --run-dir NEW_FOLDER"

BACKBONE_FIELDS = (
    *("encoder", "hidden_size", "num_layers", "language_layers", "region_layers", "visual_cls", "positions"),
    *("num_heads", "intermediate_size", "layer_norm_eps", "max_positions", "vocab_size", "feature_width"),
)
"""Fields of ModelConfig that decide the shape and the meaning of a backbone's weights."""
HEAD_FIELDS = {"region_gate": "region", "topic_head": "topic", "num_objects": "region", "num_attributes": "region"}
"""Further field of ModelConfig -> the head whose weights depend on it."""


def stage_folders(run: Path, stages: tuple[Stage, ...]) -> list[Path]:
    """The folder of each stage: `1-token`, `2-phrase`, ..."""
    return [run / f"{number}-{stage.name}" for number, stage in enumerate(stages, start=1)]


def has_begun(folder: Path) -> bool:
    """Whether a stage is finished or has a checkpoint to continue from."""
    return (folder / STAGE_FILE).is_file() or bool(checkpoints(folder / "checkpoints"))


def mark_finished(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the stage file of a finished stage. Raises CheckpointError when that fails."""
    try:
        write_json(folder / STAGE_FILE, facts)
    except OSError as error:
        raise CheckpointError(
            f"{folder / STAGE_FILE} cannot be written ({error.strerror}); free disk space, then continue with --resume"
        ) from None


def is_finished(folder: Path) -> bool:
    """Whether a stage is finished and its last checkpoint is whole."""
    if not (folder / STAGE_FILE).is_file():
        return False
    found = find_corruption(stage_checkpoint(folder))
    if found:
        log.warning("%s was finished, but %s: training continues from what is there", folder, found)
    return not found


def find_checkpoint(path: Path) -> Path:
    """The newest valid checkpoint of a run or stage folder, the one that a file `best` names, or `path` itself."""
    if (path / MANIFEST).is_file() or is_weights_folder(path):
        return path
    if path.name == BEST and path.is_file():
        return path.with_name(_checkpoint_name(path, read_small_text(path).strip()))
    stages = sorted(path.glob("[0-9]*-*")) if (path / RUN_FILE).is_file() else [path]
    for stage in reversed(stages):
        found = latest_valid(stage / "checkpoints")
        if found:
            return found
    raise CheckpointError(f"{path} holds no complete checkpoint; give the folder of a run, as runs/tps")


def run_of_checkpoint(checkpoint: Path) -> Path:
    """The run of a checkpoint, three levels above it: run/stage/checkpoints/step."""
    above = checkpoint.resolve().parents
    run = above[min(2, len(above) - 1)]
    if not (run / RUN_FILE).is_file():
        raise CheckpointError(f"{checkpoint} is not in a run folder: {RUN_FILE} is missing three levels above it")
    return run


def read_run_config(run: Path) -> RunConfig:
    """Read the configuration that a run was started with."""
    return _of_this_version(RunConfig, _read_run_file(run, "config"), where=run / RUN_FILE)


def read_run_execution(run: Path) -> Execution:
    """Read how a run was executed when it was started or last resumed."""
    resumed = read_run_card(run).get("resumed") or [{}]
    last = resumed[-1].get("execution") or _read_run_file(run, "execution")
    return _of_this_version(Execution, last, where=run / RUN_FILE)


def read_run_card(run: Path) -> dict[str, Any]:
    """Read a run's run.json."""
    saved = read_json(run / RUN_FILE, what=_CARD)
    if not isinstance(saved, dict):
        raise CheckpointError(f"{run / RUN_FILE} should be {_CARD}, but is not a table")
    _of_this_version(dict[str, str], saved.get("index_sha256", {}), where=run / RUN_FILE)
    resumed = saved.get("resumed", [])
    if not isinstance(resumed, list) or not all(isinstance(entry, dict) for entry in resumed):
        raise CheckpointError(f"{run / RUN_FILE} holds something other than tables in `resumed`; {_AGAIN}")
    return saved


def _read_run_file(run: Path, part: str) -> Any:
    saved = read_run_card(run)
    if part not in saved:
        raise CheckpointError(f"{run / RUN_FILE} should be {_CARD}, but has no {part}; {_AGAIN}")
    return saved[part]


def _of_this_version(kind: type[T], value: Any, *, where: Path) -> T:
    """Parse a value from a run's file. Raises CheckpointError for one of another version."""
    try:
        return from_json(kind, value, where=str(where))
    except InputError as error:
        found = str(error) if str(where) in str(error) else f"{where}: {error}"
        raise CheckpointError(f"{found}; {_AGAIN}") from None


@dataclass(frozen=True, kw_only=True)
class FinishedStage:
    """The content of a finished stage's stage.json."""

    stage: str = ""
    steps: int
    checkpoint: str
    """Name of its last checkpoint in its folder `checkpoints`."""
    validation: dict[str, float | None] = field(default_factory=dict)
    """Held-out metrics; None for a value that is not a number."""


def read_finished(folder: Path) -> FinishedStage:
    """Read a finished stage's stage.json. Raises InputError when it is missing, damaged or of another version."""
    where = folder / STAGE_FILE
    finished = _of_this_version(FinishedStage, read_json(where, what="the file of a finished stage"), where=where)
    _checkpoint_name(where, finished.checkpoint)
    return finished


def _checkpoint_name(where: Path, name: str) -> str:
    if not is_plain_name(name):
        raise CheckpointError(f"{where} names {name!r}, which is not the name of a checkpoint beside it; {_AGAIN}")
    return name


def require_shards(run: Path, config: RunConfig) -> None:
    """Raise ShardError, which names the flag to give, where a run's shards are not where `config` says."""
    stages = curriculum(config.curriculum, drop=config.drop)
    for name in (part.name for stage in stages for part in stage.parts):
        if not (Path(config.shards) / name / "train").is_dir():
            raise ShardError(
                f"the shard set {name}/train of {run} is not in {config.shards}; give their new folder with --shards"
            )


def set_of(checkpoint: Path) -> Path | None:
    """The folder of a set that a run was trained for last, held out if it can be; None for a weights folder.

    Raises: ShardError, which names the flag to give, where the run's shards are not where it found them.
    """
    if is_weights_folder(checkpoint):
        return None
    config = read_run_config(run_of_checkpoint(checkpoint))
    last = Path(config.shards) / curriculum(config.curriculum, drop=config.drop)[-1].parts[-1].name
    for folder in (last / "val", last / "train"):
        if folder.is_dir():
            return folder
    raise ShardError(f"{last}, whose words {checkpoint} knows, is not there; give the new folder of its set: --shards")


def check_same_data(run: Path, found: Mapping[str, str]) -> None:
    """Raise ShardError unless a run was started with the sets `found`: stage/split -> sha256 of the index.

    `found` must hold all sets of each of its stages.
    """
    written: dict[str, str] = _read_run_file(run, "index_sha256")
    stages = {name.partition("/")[0] for name in found}
    for name in sorted({name for name in written if name.partition("/")[0] in stages} | found.keys()):
        if written.get(name) != found.get(name):
            change = "is new" if name not in written else "is gone" if name not in found else "has changed"
            raise ShardError(
                f"shard set {name} {change} since {run} was started; give the folder that holds the sets that it was "
                "started with: --shards FOLDER, or start a new run"
            )


def weights_sha256(checkpoint: Path) -> str:
    """The sha256 of the weights of a checkpoint or weights folder; empty where the file is missing."""
    path = checkpoint / WEIGHTS
    return sha256_of_file(path) if path.is_file() else ""


def find_parent(run: Path, init: str) -> Path:
    """The checkpoint in the run or folder `init` that the first stage of a run starts from.

    Raises: CheckpointError when it is missing, or the run was started from another one.
    """
    is_resumed = (run / RUN_FILE).is_file()
    known = read_run_card(run).get("init_sha256") if is_resumed else None
    if is_resumed and not Path(init).exists():
        raise CheckpointError(f"{init}, from which {run} was started, is not there; give its new path with --init")
    checkpoint = find_checkpoint(Path(init))
    if known and weights_sha256(checkpoint) != known:
        raise CheckpointError(
            f"{checkpoint} does not hold the weights that {run} was started from; give the checkpoint that does: "
            "--init RUN/STAGE/checkpoints/STEP, or start a new run"
        )
    return checkpoint


def check_same_backbone(checkpoint: Path, config: RunConfig, *, heads: Collection[str] = ()) -> None:
    """Raise CheckpointError unless a checkpoint's backbone and its `heads` that are carried over fit a new run."""
    theirs = origin_of(checkpoint)
    for name in (*BACKBONE_FIELDS, *(name for name, head in HEAD_FIELDS.items() if head in heads)):
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
    there, here = theirs.detector, config.detector
    if there and here and there.identity != here.identity:
        raise CheckpointError(
            f"{checkpoint} was trained on regions of the detector {there.describe()}, {config.shards} holds those of "
            f"{here.describe()}; write the shards from regions of the former"
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How the weights of a checkpoint or a weights folder were made."""

    model: ModelConfig
    vocabulary_sha256: str | None
    """None where the vocabulary of imported weights is unknown."""
    made_as: str
    """For messages: `it was trained with tiny`."""
    words: str
    """For messages: which vocabulary shards for these weights must be written with."""
    curriculum: str | None
    """As RunConfig.curriculum; None for imported weights."""
    answers_sha256: str | None
    """Of the answer list of its answer head; None where it has none or the list is unknown."""
    detector: DetectorRecord | None
    """What computed the region features that it was trained on; None where that is unknown."""
    config: RunConfig | None
    """Of the run; None for a weights folder."""


def origin_of(checkpoint: Path) -> Origin:
    """The origin of a checkpoint or a weights folder that `find_checkpoint` has returned."""
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
            detector=card.detector,
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
        detector=config.detector,
        config=config,
    )


def results_folder(checkpoint: Path) -> Path:
    """The default folder for results of a checkpoint: its run, or the weights folder itself."""
    return checkpoint if is_weights_folder(checkpoint) else run_of_checkpoint(checkpoint)


def model_for(model: ModelConfig, shards: ShardSet) -> ModelConfig:
    """A preset's model with the sizes that depend on the shards."""
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
    return folder / "checkpoints" / read_finished(folder).checkpoint


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
