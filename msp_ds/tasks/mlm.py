"""MLM, masked language modelling (all stages; paper section 3).

Predicts the word pieces that were masked in the text, from the rest of the text and the image.
Loss: cross-entropy over the vocabulary, mean over the masked pieces.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.model.positions import gather
from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import MASK_TOKENS
from msp_ds.tasks.scoring import full_precision, mean_or_zero, target_positions, trained_pairs
from msp_ds.tasks.task import Context, Task, TaskResult


def targets(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, T]: the masked pieces."""
    return corrupted.corruption.masked_tokens & trained_pairs("mlm", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return the loss and the accuracy on the masked pieces."""
    positions = target_positions("mlm", targets(corrupted, context), context)
    logits = full_precision(heads["token"](gather(encoded.text, positions)))
    pieces = gather(clean.token_ids, positions)
    return TaskResult(
        loss=mean_or_zero(F.cross_entropy(logits, pieces, reduction="none"), positions.is_target),
        metrics={"accuracy/mlm": MeanMetric.of(logits.argmax(-1) == pieces, positions.is_target)},
    )


MLM = Task(name="mlm", heads=("token",), corruptions=(MASK_TOKENS,), text_targets=targets, score=score)
