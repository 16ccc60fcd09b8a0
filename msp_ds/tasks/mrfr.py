"""MRFR, masked region feature regression: what feature stood behind the mask? (All stages; paper section 3.)"""

from __future__ import annotations

from torch import Tensor, nn

from msp_ds.model.positions import gather
from msp_ds.records import Batch, Encoded
from msp_ds.tasks.corruptions import MASK_REGIONS
from msp_ds.tasks.scoring import (
    asked_rows,
    counted,
    feature_errors,
    full_precision,
    gated_regions,
    region_mean,
    relative_error,
)
from msp_ds.tasks.task import Context, Task, TaskResult


def asks(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, R]: the masked regions."""
    return corrupted.corruption.masked_regions & counted("mrfr", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """SmoothL1 (or squared error) to the original feature, mean over its width, then over the masked regions.

    `error/mrfr` is that error relative to the one of answering the mean feature.
    """
    rows, kind = asked_rows("mrfr", asks(corrupted, context), context), context.options.mrfr_loss
    head, gated = gated_regions(heads, encoded, rows)
    predicted = full_precision(head.features(gated))
    original = gather(clean.features, rows).to(predicted.dtype)
    errors = feature_errors(predicted, original, kind)
    return TaskResult(
        loss=region_mean("mrfr", errors, rows.is_target, corrupted, context),
        metrics={"error/mrfr": relative_error(errors, original, context.feature_mean, kind, rows.is_target)},
    )


MRFR = Task(name="mrfr", heads=("region",), corruptions=(MASK_REGIONS,), region_targets=asks, score=score)
