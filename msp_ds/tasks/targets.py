"""Target positions of a batch: which states the tasks read. They are known before anything is encoded.

B pairs of a batch, T text tokens, R regions.
"""

import dataclasses
from collections.abc import Sequence

import torch

from msp_ds.model.positions import TargetPositions, TargetStates
from msp_ds.records import Batch
from msp_ds.tasks.task import Context, Task, corrupt

PADDING_STEP = 64  # padded counts are multiples of this, so that a GPU meets few shapes
TEXT, REGIONS = "any task's text", "any task's regions"
"""Keys of the padded counts of all tasks together; those of single tasks stand under the tasks' names."""


def targets_of(tasks: Sequence[Task], corrupted: Batch, context: Context) -> TargetStates:
    """Return the target positions of all tasks together."""
    text, regions = (corrupted.token_mask & False), (corrupted.region_mask & False)
    for task in tasks:
        text = text if task.text_targets is None else text | task.text_targets(corrupted, context)
        regions = regions if task.region_targets is None else regions | task.region_targets(corrupted, context)
    return TargetStates(
        text=TargetPositions(mask=text, padded_count=context.padded_counts.get(TEXT)),
        regions=TargetPositions(mask=regions, padded_count=context.padded_counts.get(REGIONS)),
    )


def count_targets(clean: Batch, tasks: Sequence[Task], context: Context) -> dict[str, int]:
    """Count the target positions of a batch, rounded up to PADDING_STEP, for `Context.padded_counts`.

    The host counts before the batch goes to a GPU and so need not wait for it: targets follow from the keys of the
    pairs alone. Features, which may be on the GPU already, are left out, so that this costs next to nothing.
    """
    regions, random_regions = clean.features.shape[:2], clean.random_features.shape[:2]
    without_features = dataclasses.replace(
        clean, features=torch.empty(*regions, 0), random_features=torch.empty(*random_regions, 0)
    )
    corrupted = corrupt(without_features, tasks, context)
    together = targets_of(tasks, corrupted, context)
    masks = {TEXT: together.text.mask, REGIONS: together.regions.mask}
    for task in tasks:
        for targets in (task.text_targets, task.region_targets):
            if targets is not None:
                masks[task.name] = targets(corrupted, context)
    return {name: _round_up(int(mask.sum())) for name, mask in masks.items()}


def _round_up(count: int) -> int:
    return -(-count // PADDING_STEP) * PADDING_STEP
