"""Which states the tasks of a batch read: known as soon as it is corrupted, before anything is encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from msp_ds.model.positions import TargetPositions, TargetStates
from msp_ds.records import Batch
from msp_ds.tasks.task import Context, Task, corrupt

PADDING_STEP = 64
"""Rooms are multiples of this, so that a GPU meets few shapes."""
TEXT, REGIONS = "any task's text", "any task's regions"
"""The rooms of all tasks together, beside that of each under its name."""


def targets_of(tasks: Sequence[Task], corrupted: Batch, context: Context) -> TargetStates:
    """What any of the tasks asks about."""
    text, regions = (corrupted.token_mask & False), (corrupted.region_mask & False)
    for task in tasks:
        text = text if task.text_targets is None else text | task.text_targets(corrupted, context)
        regions = regions if task.region_targets is None else regions | task.region_targets(corrupted, context)
    return TargetStates(
        text=TargetPositions(where=text, padded_count=context.rooms.get(TEXT)),
        regions=TargetPositions(where=regions, padded_count=context.rooms.get(REGIONS)),
    )


def count_targets(clean: Batch, tasks: Sequence[Task], context: Context) -> dict[str, int]:
    """The rooms that a batch needs: how long the lists of asked places are, for Context.rooms.

    For batches on the host that will go to a GPU, which need not be waited for then: whatever is asked about follows
    from the keys of the pairs alone. Features are left out, so that this costs next to nothing; they may be on the GPU.
    """
    places, random_regions = clean.features.shape[:2], clean.random_features.shape[:2]
    outline = dataclasses.replace(
        clean, features=torch.empty(*places, 0), random_features=torch.empty(*random_regions, 0)
    )
    corrupted = corrupt(outline, tasks, context)
    together = targets_of(tasks, corrupted, context)
    asked = {TEXT: together.text.where, REGIONS: together.regions.where}
    for task in tasks:
        for asks in (task.text_targets, task.region_targets):
            if asks is not None:
                asked[task.name] = asks(corrupted, context)
    return {name: _room(where) for name, where in asked.items()}


def _room(where: Tensor) -> int:
    return -(-int(where.sum()) // PADDING_STEP) * PADDING_STEP
