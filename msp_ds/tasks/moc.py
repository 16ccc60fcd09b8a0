"""MOC, masked object classification (all stages; paper section 3).

Predicts the detector's object and attribute labels of each masked region, from its box, the other regions and the text.
Loss: cross-entropy of the object plus that of the attribute, each weighted by the detector's confidence; summed over
the masked regions (option `moc_target`: all regions) and divided by their expected number (`region_normaliser`). In the
token stage the answer stands in the text unless its label is masked too: an accuracy near 100 % is expected there.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.model.positions import gather
from msp_ds.records import IGNORE, Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import MASK_REGIONS
from msp_ds.tasks.scoring import full_precision, gated_regions, region_mean, target_positions, trained_pairs
from msp_ds.tasks.task import Context, Task, TaskResult


def targets(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, R]: the masked regions, or all regions (option `moc_target`)."""
    regions = corrupted.corruption.masked_regions if context.options.moc_target == "masked" else corrupted.region_mask
    return regions & trained_pairs("moc", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return the loss and the accuracies of object and attribute where the detector has a label; of a kind that it does
    not know there are none."""
    positions = target_positions("moc", targets(corrupted, context), context)
    head, gated = gated_regions(heads, encoded, positions)
    kinds = {
        "object": (head.objects(gated), clean.object_ids, clean.object_scores),
        "attribute": (head.attributes(gated), clean.attribute_ids, clean.attribute_scores),
    }
    loss = gated.new_zeros((), dtype=torch.float32)
    metrics = {}
    for kind, (logits, all_labels, all_confidence) in kinds.items():
        if not logits.shape[-1]:  # the detector knows no attributes
            continue
        labels, confidence = gather(all_labels, positions), gather(all_confidence, positions)
        weights = confidence if context.options.moc_weight == "confidence" else torch.ones_like(confidence)
        losses = F.cross_entropy(full_precision(logits), labels, ignore_index=IGNORE, reduction="none")
        loss = loss + region_mean("moc", weights * losses, positions.is_target, corrupted, context)
        is_labelled = (labels != IGNORE) & positions.is_target
        metrics[f"accuracy/moc_{kind}"] = MeanMetric.of(logits.argmax(-1) == labels, is_labelled)
    return TaskResult(loss=loss, metrics=metrics)


MOC = Task(
    name="moc",
    heads=("region",),
    corruptions=(MASK_REGIONS,),
    region_targets=targets,
    score=score,
    needs_labels=True,
)
