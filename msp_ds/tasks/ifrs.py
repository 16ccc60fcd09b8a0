"""IFRS, image features random shuffle: which feature belongs into this box? (Token stage; paper section 3.1, eq. 1.)"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded
from msp_ds.tasks.corruptions import SHUFFLE_REGIONS
from msp_ds.tasks.scoring import counted, gated_regions, mean_or_zero, relative_error
from msp_ds.tasks.task import Context, Score, Task


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, posed: Batch, context: Context) -> Score:
    """Squared error to the feature that belongs here, mean over its width and over the regions of shuffled triplets.

    The error is reported relative to answering the mean feature (`error/ifrs`) and to copying what lies there after
    the shuffle (`error/ifrs_vs_copy`): below 1 the model has learned to put things back.
    """
    asked = posed.marks.shuffled_regions & counted(posed, context)
    head, gated = gated_regions(heads, encoded, asked)
    predicted, original = head.features(gated).float(), clean.features[asked].float()
    distance = F.mse_loss if context.options.ifrs_loss == "mse" else F.smooth_l1_loss
    return Score(
        loss=mean_or_zero(distance(predicted, original, reduction="none").mean(1)),
        tallies={
            "error/ifrs": relative_error(predicted, original, context.feature_mean),
            "error/ifrs_vs_copy": relative_error(predicted, original, posed.features[asked].float()),
        },
    )


IFRS = Task(name="ifrs", heads=("region",), corruptions=(SHUFFLE_REGIONS,), score=score)
