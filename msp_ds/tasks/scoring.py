"""Averages, region states and errors that the losses of several tasks share.

B pairs of a batch, T text tokens, R regions, S either of the two, N target positions, F feature width, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.model.heads import RegionHead
from msp_ds.model.positions import FlatPositions, TargetPositions, gather
from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.task import Context


def full_precision(values: Tensor) -> Tensor:
    """Convert half-precision values to float32; float64, in which gradients are checked, stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def target_positions(task: str, mask: Tensor, context: Context) -> FlatPositions:
    """List the target positions of a task, at which bool [B, S] `mask` is True; padded where the host counted them."""
    return TargetPositions(mask=mask, padded_count=context.padded_counts.get(task)).flat()


def trained_pairs(task: str, batch: Batch, context: Context) -> Tensor:
    """bool [B, 1]: the pairs that a task other than matching trains on, all or those with their own image."""
    options = context.options
    if options.mismatch_losses_of.get(task, options.mismatch_losses) == "keep":
        return torch.ones_like(batch.corruption.matched)[:, None]
    return batch.corruption.matched[:, None]


def mean_or_zero(values: Tensor, is_target: Tensor) -> Tensor:
    """Return the mean of `values` [N] where bool [N] `is_target`; without targets, a zero that has a gradient."""
    return values.masked_fill(~is_target, 0.0).sum() / is_target.sum().clamp(min=1)


def region_mean(task: str, values: Tensor, is_target: Tensor, batch: Batch, context: Context) -> Tensor:
    """Average a task's losses [N] over its target regions, by default over the expected number of them.

    The expected number, 15 % of all regions that can be targets, is what the released code divides by (its 1 / 0.15).
    It is additive over ranks and equals the plain mean on average.
    """
    if context.options.region_normaliser == "asked":
        return mean_or_zero(values, is_target)
    # Regions of dropped pairs are never targets: counting them would shrink the loss by the fraction that is dropped.
    num_regions = (batch.region_mask & trained_pairs(task, batch, context)).sum().to(values.dtype)
    expected = (num_regions * context.options.region_probability).clamp(min=1.0)
    return values.masked_fill(~is_target, 0.0).sum() / expected


def gated_regions(heads: nn.ModuleDict, encoded: Encoded, positions: FlatPositions) -> tuple[RegionHead, Tensor]:
    """Return the region head and its gated states [N, H] at N positions of the regions."""
    head = heads["region"]
    if not isinstance(head, RegionHead):
        raise TypeError(f"the head called 'region' is a {type(head).__name__}")
    pairs = positions.index // encoded.regions.shape[1]
    return head, head(gather(encoded.regions, positions), encoded.pair.index_select(0, pairs))


def feature_errors(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    """Return float32 [N]: the `smooth_l1` or `mse` loss between features [N, F], mean over their width."""
    distance = F.smooth_l1_loss if kind == "smooth_l1" else F.mse_loss
    return distance(predicted, target, reduction="none").mean(1)


def relative_error(errors: Tensor, target: Tensor, baseline: Tensor, kind: str, is_target: Tensor) -> MeanMetric:
    """Return `errors` [N] relative to those of predicting `baseline`, [N, F] or [F], for features `target` [N, F].

    is_target: bool [N], the positions that count.
    """
    theirs = feature_errors(baseline.expand_as(target), target, kind)
    ours, theirs = (each.detach().double().masked_fill(~is_target, 0.0).sum() for each in (errors, theirs))
    return MeanMetric(ours, theirs)
