"""MOC, masked object classification: which object, of which attribute, is behind the mask? (All stages; section 3.)

In the token stage the answer stands in the text unless its label is masked too: an accuracy near 100 % is no bug there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.records import IGNORE, Batch, Encoded, Tally
from msp_ds.tasks.corruptions import MASK_REGIONS
from msp_ds.tasks.scoring import counted, full_precision, gated_regions, region_mean
from msp_ds.tasks.task import Context, Score, Task


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, posed: Batch, context: Context) -> Score:
    """Cross-entropy of object and attribute of each masked region, weighed by the detector's confidence."""
    options = context.options
    regions = posed.marks.masked_regions if options.moc_target == "masked" else posed.region_mask
    asked = regions & counted("moc", posed, context)
    head, gated = gated_regions(heads, encoded, asked)
    kinds = {
        "object": (head.objects(gated), clean.object_ids[asked], clean.object_scores[asked]),
        "attribute": (head.attributes(gated), clean.attribute_ids[asked], clean.attribute_scores[asked]),
    }
    loss = gated.new_zeros((), dtype=torch.float32)
    tallies = {}
    for kind, (logits, labels, confidence) in kinds.items():
        weights = confidence if options.moc_weight == "confidence" else torch.ones_like(confidence)
        loss = loss + region_mean("moc", _weighted(full_precision(logits), labels, weights), posed, context)
        known = labels != IGNORE
        tallies[f"accuracy/moc_{kind}"] = Tally.of((logits.argmax(-1) == labels)[known])
    return Score(loss=loss, tallies=tallies)


def _weighted(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """float32 [N]: weighted cross-entropy of logits [N, C], zero where the label is IGNORE."""
    return weights * F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


MOC = Task(name="moc", heads=("region",), corruptions=(MASK_REGIONS,), score=score, needs_labels=True)
