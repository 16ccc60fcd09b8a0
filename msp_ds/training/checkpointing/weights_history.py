"""The weights of a run, a checkpoint or a weights folder, with the history of their training."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from msp_ds.config import RunConfig, read_json
from msp_ds.curriculum import Stage, curriculum
from msp_ds.data.format.shards import read_index
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.errors import InputError, ShardError
from msp_ds.model.weights.conversion import untied
from msp_ds.training.checkpointing.checkpoint import read_manifest, read_weights
from msp_ds.training.checkpointing.run_folder import (
    STAGE_FILE,
    find_checkpoint,
    read_finished,
    read_run_card,
    read_run_config,
    run_of_checkpoint,
    stage_folders,
)
from msp_ds.training.checkpointing.weights_folder import (
    ANSWERS_FILE,
    VOCAB_FILE,
    Grade,
    History,
    StoredWeights,
    TrainedSet,
    TrainedStage,
    WeightsCard,
    is_weights_folder,
    read_stored,
)


def stored_weights(path: Path, *, vocab: Path | None) -> StoredWeights:
    """The newest weights of a run, those of a checkpoint, or a weights folder. vocab: their vocab.txt, if known.

    Raises: InputError when they cannot be read or were trained with another vocabulary.
    """
    checkpoint = find_checkpoint(path)
    stored = read_stored(checkpoint) if is_weights_folder(checkpoint) else _of_run(checkpoint)
    if vocab is None:
        return stored
    data = read_vocabulary(vocab).data
    if stored.card.vocabulary_sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise InputError(f"{vocab} is not the vocabulary that {path} was trained with; leave --vocab out or correct it")
    return replace(stored, vocabulary=data)


def _of_run(checkpoint: Path) -> StoredWeights:
    run = run_of_checkpoint(checkpoint)
    config = read_run_config(run)
    card = WeightsCard(
        model=config.model,
        vocabulary_sha256=config.vocabulary_sha256,
        answers_sha256=config.answers_sha256,
        detector=config.detector,
        source=f"run {run.name}, {_short_name(checkpoint)}",
        history=_history(checkpoint, run, config),
    )
    weights = untied(read_weights(checkpoint), where=str(checkpoint))
    words = _file_of_shards(config, VOCAB_FILE, config.vocabulary_sha256)
    answers = _file_of_shards(config, ANSWERS_FILE, config.answers_sha256)
    return StoredWeights(card=card, weights=weights, vocabulary=words, answers=answers)


def _short_name(checkpoint: Path) -> str:
    """`3-sentence/step-00000700`."""
    full = checkpoint.resolve()
    return f"{full.parents[1].name}/{full.name}"


def _file_of_shards(config: RunConfig, name: str, sha256: str | None) -> bytes | None:
    """The content of a file of the run's sets, if it is still there and the same."""
    for path in sorted(Path(config.shards).glob(f"*/*/{name}")):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    return None


def _history(checkpoint: Path, run: Path, config: RunConfig) -> History:
    stages = curriculum(config.curriculum, drop=config.drop)
    folders = stage_folders(run, stages)
    here = checkpoint.resolve().parents[1].name
    last = next((number for number, folder in enumerate(folders) if folder.name == here), len(folders) - 1)
    trained = list(zip(stages, folders, strict=True))[: last + 1]
    card = read_run_card(run)
    sets: dict[str, str] = card.get("index_sha256", {})
    parts = {part.name for stage, _ in trained for part in stage.parts}
    return History(
        preset=config.preset,
        curriculum=config.curriculum,
        drop=config.drop,
        seed=config.seed,
        init=None if config.init is None else Path(config.init).name,
        git_commit=str(card.get("git_commit", "unknown")),
        stages=tuple(
            _stage(stage, folder, config, checkpoint=checkpoint if folder.name == here else None)
            for stage, folder in trained
        ),
        data=tuple(
            _set(name, sha, Path(config.shards)) for name, sha in sorted(sets.items()) if name.split("/")[0] in parts
        ),
        grades=tuple(_grades(run, checkpoint)),
    )


def _stage(stage: Stage, folder: Path, config: RunConfig, *, checkpoint: Path | None) -> TrainedStage:
    """What was trained in a stage; only up to `checkpoint` where that is in this stage."""
    schedule = stage.schedule(config.schedule)
    done = read_finished(folder) if (folder / STAGE_FILE).is_file() else None
    if done is not None and (checkpoint is None or done.checkpoint == checkpoint.name):
        steps, validation, finished = done.steps, done.validation, True
    else:
        saved = read_manifest(checkpoint) if checkpoint is not None else None
        steps, finished = saved.step if saved else 0, False
        validation = (saved.state.get("validated") if saved else None) or {}
    return TrainedStage(
        name=stage.name,
        tasks=tuple(task.name for task in stage.tasks),
        epochs=schedule.epochs,
        batch_size=schedule.batch_size,
        steps=steps,
        finished=finished,
        validation=dict(_numbers(validation)),
    )


def _set(name: str, sha256: str, shards: Path) -> TrainedSet:
    known = None
    with suppress(ShardError):  # moved, or on a remote host: its hash still identifies it
        index, found = read_index(shards / name)
        known = index if found == sha256 else None
    return TrainedSet(
        name=name,
        index_sha256=sha256,
        num_images=known.num_images if known else None,
        num_pairs=known.num_pairs if known else None,
        extractor=known.extractor if known else None,
    )


def _grades(run: Path, checkpoint: Path) -> Iterator[Grade]:
    """The results in a run's folder that were measured on a checkpoint."""
    for path in sorted(file for file in run.glob("*.json") if file.is_file()):
        result = read_json(path, what="a result of a run")
        if not isinstance(result, dict):
            continue
        measured_on = Path(str(result.get("checkpoint", "")))
        if (
            measured_on.name == checkpoint.name
            and _short_name(measured_on) == _short_name(checkpoint)
            and "task" in result
        ):
            values = dict(_numbers({key: value for key, value in result.items() if key != "num_images"}))
            yield Grade(task=str(result["task"]), protocol=str(result.get("protocol", "")), values=values)


def _numbers(value: Any, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield every number in nested tables by its path, as `grades.image_retrieval.recall_1`."""
    if isinstance(value, dict):
        for key, part in sorted(value.items()):
            yield from _numbers(part, f"{prefix}.{key}" if prefix else str(key))
    elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        yield prefix, None if value is None else float(value)
