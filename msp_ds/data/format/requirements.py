"""Checks that a set has what a task needs, with the command that adds what is missing."""

from collections.abc import Sequence

import numpy as np

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.questions import Questions
from msp_ds.data.format.shards import ShardSet
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import ShardError


def require_hard_negatives(shards: ShardSet, *, task: str) -> np.ndarray:
    """Return the set's hard negatives, int32 [N, K]. Raises: ShardError that says how to write them."""
    if shards.hard_negatives is None:
        raise ShardError(
            f"{shards.path} has no hard negatives, which task {task} needs; "
            f"add them with: msp-ds hard-negatives --shards {shards.path} --attach, "
            "or train with --set itm_negatives=random"
        )
    return shards.hard_negatives


def require_labels(shards: ShardSet, *, tasks: Sequence[str]) -> None:
    """Require the detector's labels. Raises: ShardError that says how to train without these tasks."""
    if not shards.index.has_labels:
        drops = " ".join(f"--drop {task}" for task in tasks)
        raise ShardError(
            f"{shards.path} was written from regions without labels, which tasks {', '.join(tasks)} need; "
            f"train without them: {drops}, or write it from labelled regions: "
            + layout.shard_command(shards.index.stage)
        )


def require_questions(shards: ShardSet, *, task: str) -> Questions:
    """Return the set's questions. Raises: ShardError that says how to write them."""
    if shards.questions is None:
        raise ShardError(
            f"{shards.path} holds no questions, which task {task} needs; write it with: msp-ds shard --task {task}"
        )
    return shards.questions


def require_same_detector(shards: ShardSet, record: DetectorRecord | None, *, where: str) -> None:
    """Require features of the detector that `where` knows, as far as both are known. Raises: ShardError."""
    found = shards.index.detector
    if found and record and found.identity != record.identity:
        raise ShardError(
            f"{shards.path} holds regions of the detector {found.describe()}, {where} those of {record.describe()}; "
            f"write the set from regions of the latter: {layout.shard_command(shards.index.stage)} --regions FOLDER"
        )


def require_same_words(shards: ShardSet, other: ShardSet) -> None:
    """Require the same detector, word pieces and labels in two sets, as in all stages of a run. Raises: ShardError."""
    require_same_detector(other, shards.index.detector, where=str(shards.path))
    for name in (layout.VOCAB_NAME, layout.OBJECTS_NAME, layout.ATTRIBUTES_NAME):
        if shards.index.files[name].sha256 != other.index.files[name].sha256:
            raise ShardError(
                f"{shards.path} and {other.path} were written with different {name}; "
                f"write both from one recipe with: {layout.shard_command(other.index.stage)} --recipe FILE"
            )
