"""ITM_HS, image-text matching with hard samples: is this the text's image? (Sentence stage; section 3.3, eq. 3.)"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import REPLACE_IMAGES
from msp_ds.tasks.scoring import full_precision
from msp_ds.tasks.task import Context, Task, TaskResult


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Two-way cross-entropy, index 1 = matched, mean over all pairs."""
    logits = full_precision(heads["match"](encoded.pair))
    matched = corrupted.corruption.matched.long()
    return TaskResult(
        loss=F.cross_entropy(logits, matched),
        metrics={"accuracy/itm_hs": MeanMetric.of(logits.argmax(-1) == matched)},
    )


ITM_HS = Task(name="itm_hs", heads=("match",), pair_sampler=REPLACE_IMAGES, score=score)
