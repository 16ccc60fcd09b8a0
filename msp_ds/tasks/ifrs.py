"""IFRS, image features random shuffle: which feature belongs into this box? (Token stage; paper section 3.1, eq. 1.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msp_ds.records import Batch, Encoded, Tally
from msp_ds.tasks.corruptions import SHUFFLE_REGIONS
from msp_ds.tasks.scoring import (
    counted,
    feature_errors,
    full_precision,
    gated_regions,
    mean_or_zero,
    relative_error,
)
from msp_ds.tasks.task import Context, Score, Task


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, posed: Batch, context: Context) -> Score:
    """Squared error to the feature that belongs here, mean over its width and over the regions of shuffled triplets.

    The error is reported relative to those of answering the mean feature (`error/ifrs`) and of copying what lies there
    after the shuffle (`error/ifrs_vs_copy`). Answering the mean beats the copy too, so that neither shows that anything
    is put back; `accuracy/ifrs` does: how often the answer is nearest to the right one of the triplet's three features,
    one in three by chance.
    """
    asked, kind = posed.marks.shuffled_regions & counted("ifrs", posed, context), context.options.ifrs_loss
    head, gated = gated_regions(heads, encoded, asked)
    predicted = full_precision(head.features(gated))
    original = clean.features[asked].to(predicted.dtype)
    errors = feature_errors(predicted, original, kind)
    return Score(
        loss=mean_or_zero(errors),
        tallies={
            "accuracy/ifrs": Tally.of(_is_nearest(predicted, clean.features, posed.marks.shuffled_regions, asked)),
            "error/ifrs": relative_error(errors, original, context.feature_mean, kind),
            "error/ifrs_vs_copy": relative_error(errors, original, posed.features[asked].to(predicted.dtype), kind),
        },
    )


def _is_nearest(predicted: Tensor, features: Tensor, shuffled: Tensor, asked: Tensor) -> Tensor:
    """bool [N]: whether an answer [N, F] is nearer to its own feature than to the two others of its triplet.

    features: [B, R, F], unshuffled; shuffled, asked: bool [B, R]. Triplets do not overlap, so that counting an image's
    shuffled slots by threes tells the place of each in its triplet.
    """
    places = ((shuffled.cumsum(1) - 1) % 3)[asked]
    pair, slot = asked.nonzero().unbind(1)
    triplet = (slot - places)[:, None] + torch.arange(3, device=slot.device)
    distances = (predicted[:, None].detach() - features[pair[:, None], triplet].to(predicted.dtype)).square().sum(2)
    return distances.argmin(1) == places


IFRS = Task(name="ifrs", heads=("region",), corruptions=(SHUFFLE_REGIONS,), score=score)
