"""ITM_HS, image-text matching with hard samples (sentence stage; paper section 3.3, equation 3).

Predicts whether the image of a pair is the text's own or was replaced, from the pair. Half of the images are replaced,
where possible by a hard negative: one of the images that are most similar to the text's own.
Loss: two-way cross-entropy, mean over all pairs:

    L = -[y log s + (1 - y) log(1 - s)]

s is the predicted probability that image and text match, y is 1 if they do and 0 otherwise.
"""

from torch import nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import REPLACE_IMAGES
from msp_ds.tasks.scoring import full_precision
from msp_ds.tasks.task import Context, Task, TaskResult


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return the loss and the accuracy over all pairs."""
    logits = full_precision(heads["match"](encoded.pair))
    matched = corrupted.corruption.matched.long()
    return TaskResult(
        loss=F.cross_entropy(logits, matched),
        metrics={"accuracy/itm_hs": MeanMetric.of(logits.argmax(-1) == matched)},
    )


ITM_HS = Task(name="itm_hs", heads=("match",), pair_sampler=REPLACE_IMAGES, score=score)
