"""MRFR, masked region feature regression (all stages; paper section 3).

Predicts the detector's feature of each masked region, from its box, the other regions and the text.
Loss: SmoothL1 (option `mrfr_loss`: squared error), mean over the feature width; summed over the masked regions and
divided by their expected number (option `region_normaliser`).
"""

from torch import Tensor, nn

from msp_ds.model.positions import gather
from msp_ds.records import Batch, Encoded
from msp_ds.tasks import scoring
from msp_ds.tasks.corruptions import MASK_REGIONS
from msp_ds.tasks.task import Context, Task, TaskResult


def targets(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, R]: the masked regions."""
    return corrupted.corruption.masked_regions & scoring.trained_pairs("mrfr", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return the loss and `error/mrfr`, the error relative to that of predicting the mean feature."""
    positions, kind = scoring.target_positions("mrfr", targets(corrupted, context), context), context.options.mrfr_loss
    head, gated = scoring.gated_regions(heads, encoded, positions)
    predicted = scoring.full_precision(head.features(gated))
    original = gather(clean.features, positions).to(predicted.dtype)
    errors = scoring.feature_errors(predicted, original, kind)
    return TaskResult(
        loss=scoring.region_mean("mrfr", errors, positions.is_target, corrupted, context),
        metrics={
            "error/mrfr": scoring.relative_error(errors, original, context.feature_mean, kind, positions.is_target)
        },
    )


MRFR = Task(name="mrfr", heads=("region",), corruptions=(MASK_REGIONS,), region_targets=targets, score=score)
