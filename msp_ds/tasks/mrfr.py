"""MRFR, masked region feature regression: what feature stood behind the mask? (All stages; paper section 3.)"""

from __future__ import annotations

from torch import nn

from msp_ds.records import Batch, Encoded
from msp_ds.tasks.corruptions import MASK_REGIONS
from msp_ds.tasks.scoring import counted, feature_errors, full_precision, gated_regions, region_mean, relative_error
from msp_ds.tasks.task import Context, Score, Task


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, posed: Batch, context: Context) -> Score:
    """SmoothL1 (or squared error) to the original feature, mean over its width, then over the masked regions.

    `error/mrfr` is that error relative to the one of answering the mean feature.
    """
    asked, kind = posed.marks.masked_regions & counted("mrfr", posed, context), context.options.mrfr_loss
    head, gated = gated_regions(heads, encoded, asked)
    predicted = full_precision(head.features(gated))
    original = clean.features[asked].to(predicted.dtype)
    errors = feature_errors(predicted, original, kind)
    return Score(
        loss=region_mean("mrfr", errors, posed, context),
        tallies={"error/mrfr": relative_error(errors, original, context.feature_mean, kind)},
    )


MRFR = Task(name="mrfr", heads=("region",), corruptions=(MASK_REGIONS,), score=score)
