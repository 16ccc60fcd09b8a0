"""MOC, masked object classification: which object, of which attribute, is behind the mask? (All stages; section 3.)

In the token stage the answer stands in the text unless its label is masked too: an accuracy near 100 % is no bug there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.model.positions import gather
from msp_ds.records import IGNORE, Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import MASK_REGIONS
from msp_ds.tasks.scoring import asked_rows, counted, full_precision, gated_regions, region_mean
from msp_ds.tasks.task import Context, Task, TaskResult


def asks(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, R]: the masked regions, or all that are there."""
    regions = corrupted.corruption.masked_regions if context.options.moc_target == "masked" else corrupted.region_mask
    return regions & counted("moc", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Cross-entropy of object and attribute of each masked region, weighed by the detector's confidence."""
    rows = asked_rows("moc", asks(corrupted, context), context)
    head, gated = gated_regions(heads, encoded, rows)
    kinds = {
        "object": (head.objects(gated), clean.object_ids, clean.object_scores),
        "attribute": (head.attributes(gated), clean.attribute_ids, clean.attribute_scores),
    }
    loss = gated.new_zeros((), dtype=torch.float32)
    metrics = {}
    for kind, (logits, all_labels, all_confidence) in kinds.items():
        labels, confidence = gather(all_labels, rows), gather(all_confidence, rows)
        weights = confidence if context.options.moc_weight == "confidence" else torch.ones_like(confidence)
        losses = _weighted(full_precision(logits), labels, weights)
        loss = loss + region_mean("moc", losses, rows.is_target, corrupted, context)
        known = (labels != IGNORE) & rows.is_target
        metrics[f"accuracy/moc_{kind}"] = MeanMetric.of(logits.argmax(-1) == labels, known)
    return TaskResult(loss=loss, metrics=metrics)


def _weighted(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """float32 [N]: weighted cross-entropy of logits [N, C], zero where the label is IGNORE."""
    return weights * F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


MOC = Task(
    name="moc",
    heads=("region",),
    corruptions=(MASK_REGIONS,),
    region_targets=asks,
    score=score,
    needs_labels=True,
)
