"""IFRS, image features random shuffle (token stage; paper section 3.1, equation 1).

Predicts which feature belongs to each box of a shuffled triplet of regions, from the text and all regions.
Loss: squared error to the original feature, mean over its width and over the regions of shuffled triplets:

    L = sum_k sum_i || h(r_i) - f(r_i) ||^2

k runs over the K shuffled triplets and i over their three regions; h(r_i) is the predicted and f(r_i) the original
feature. The paper sums; the mean used here does not depend on how many triplets are shuffled.
"""

import torch
from torch import Tensor, nn

from msp_ds.model.positions import FlatPositions, gather
from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks import scoring
from msp_ds.tasks.corruptions import SHUFFLE_REGIONS
from msp_ds.tasks.task import Context, Task, TaskResult


def targets(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, R]: the regions of shuffled triplets."""
    return corrupted.corruption.shuffled_regions & scoring.trained_pairs("ifrs", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return the loss, two relative errors and `accuracy/ifrs`.

    `error/ifrs` is relative to predicting the mean feature, `error/ifrs_vs_copy` to copying the feature that is there
    after the shuffle. The mean feature beats the copy, so neither shows that the order is restored. `accuracy/ifrs`
    does: how often the original is the nearest of the triplet's three features; chance level is 1/3.
    """
    positions, kind = scoring.target_positions("ifrs", targets(corrupted, context), context), context.options.ifrs_loss
    head, gated = scoring.gated_regions(heads, encoded, positions)
    predicted = scoring.full_precision(head.features(gated))
    original, shuffled = (gather(batch.features, positions).to(predicted.dtype) for batch in (clean, corrupted))
    errors = scoring.feature_errors(predicted, original, kind)
    is_nearest = _is_nearest(predicted, clean.features, corrupted.corruption.shuffled_regions, positions)
    return TaskResult(
        loss=scoring.mean_or_zero(errors, positions.is_target),
        metrics={
            "accuracy/ifrs": MeanMetric.of(is_nearest, positions.is_target),
            "error/ifrs": scoring.relative_error(errors, original, context.feature_mean, kind, positions.is_target),
            "error/ifrs_vs_copy": scoring.relative_error(errors, original, shuffled, kind, positions.is_target),
        },
    )


def _is_nearest(predicted: Tensor, features: Tensor, shuffled: Tensor, positions: FlatPositions) -> Tensor:
    """bool [N]: a prediction [N, F] is nearer to its own feature than to the two others of its triplet.

    features: [B, R, F], unshuffled; shuffled: bool [B, R]. Triplets do not overlap: the number of shuffled regions to
    the left of a region, modulo 3, is its place in its triplet.
    """
    num_regions = shuffled.shape[1]
    place = gather((shuffled.cumsum(1) - 1) % 3, positions)
    pair, region = positions.index // num_regions, positions.index % num_regions
    triplet = (region - place)[:, None] + torch.arange(3, device=region.device)
    triplet = triplet.clamp(0, num_regions - 1)  # positions that only pad the list are in no triplet
    distances = (predicted[:, None].detach() - features[pair[:, None], triplet].to(predicted.dtype)).square().sum(2)
    return distances.argmin(1) == place


IFRS = Task(name="ifrs", heads=("region",), corruptions=(SHUFFLE_REGIONS,), region_targets=targets, score=score)
