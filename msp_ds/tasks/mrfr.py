"""MRFR, masked region feature regression: what feature stood behind the mask? (All stages; paper section 3.)"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded
from msp_ds.tasks.corruptions import MASK_REGIONS
from msp_ds.tasks.scoring import counted, gated_regions, region_mean, relative_error
from msp_ds.tasks.task import Context, Score, Task


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, posed: Batch, context: Context) -> Score:
    """SmoothL1 (or squared error) to the original feature, mean over its width, then over the masked regions."""
    asked = posed.marks.masked_regions & counted(posed, context)
    head, gated = gated_regions(heads, encoded, asked)
    predicted, original = head.features(gated).float(), clean.features[asked].float()
    distance = F.smooth_l1_loss if context.options.mrfr_loss == "smooth_l1" else F.mse_loss
    each = distance(predicted, original, reduction="none").mean(1)
    return Score(
        loss=region_mean(each, posed, context),
        tallies={"error/mrfr": relative_error(predicted, original, context.feature_mean)},
    )


MRFR = Task(name="mrfr", heads=("region",), corruptions=(MASK_REGIONS,), score=score)
