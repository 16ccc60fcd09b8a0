"""IFRS, image features random shuffle: which feature belongs into this box? (Token stage; paper section 3.1, eq. 1.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msp_ds.model.positions import FlatPositions, gather
from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import SHUFFLE_REGIONS
from msp_ds.tasks.scoring import (
    asked_rows,
    counted,
    feature_errors,
    full_precision,
    gated_regions,
    mean_or_zero,
    relative_error,
)
from msp_ds.tasks.task import Context, Task, TaskResult


def asks(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, R]: the regions of shuffled triplets."""
    return corrupted.corruption.shuffled_regions & counted("ifrs", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Squared error to the feature that belongs here, mean over its width and over the regions of shuffled triplets.

    The error is reported relative to those of answering the mean feature (`error/ifrs`) and of copying what lies there
    after the shuffle (`error/ifrs_vs_copy`). Answering the mean beats the copy too, so that neither shows that anything
    is put back; `accuracy/ifrs` does: how often the answer is nearest to the right one of the triplet's three features,
    one in three by chance.
    """
    rows, kind = asked_rows("ifrs", asks(corrupted, context), context), context.options.ifrs_loss
    head, gated = gated_regions(heads, encoded, rows)
    predicted = full_precision(head.features(gated))
    original, there = (gather(batch.features, rows).to(predicted.dtype) for batch in (clean, corrupted))
    errors = feature_errors(predicted, original, kind)
    return TaskResult(
        loss=mean_or_zero(errors, rows.is_target),
        metrics={
            "accuracy/ifrs": MeanMetric.of(
                _is_nearest(predicted, clean.features, corrupted.corruption.shuffled_regions, rows), rows.is_target
            ),
            "error/ifrs": relative_error(errors, original, context.feature_mean, kind, rows.is_target),
            "error/ifrs_vs_copy": relative_error(errors, original, there, kind, rows.is_target),
        },
    )


def _is_nearest(predicted: Tensor, features: Tensor, shuffled: Tensor, rows: FlatPositions) -> Tensor:
    """bool [N]: whether an answer [N, F] is nearer to its own feature than to the two others of its triplet.

    features: [B, R, F], unshuffled; shuffled: bool [B, R]; rows: the N asked about. Triplets do not overlap, so that
    counting an image's shuffled slots by threes tells the place of each in its triplet.
    """
    num_regions = shuffled.shape[1]
    places = gather((shuffled.cumsum(1) - 1) % 3, rows)
    pair, slot = rows.index // num_regions, rows.index % num_regions
    triplet = (slot - places)[:, None] + torch.arange(3, device=slot.device)
    triplet = triplet.clamp(0, num_regions - 1)  # a place that only fills the list is in none
    distances = (predicted[:, None].detach() - features[pair[:, None], triplet].to(predicted.dtype)).square().sum(2)
    return distances.argmin(1) == places


IFRS = Task(name="ifrs", heads=("region",), corruptions=(SHUFFLE_REGIONS,), region_targets=asks, score=score)
