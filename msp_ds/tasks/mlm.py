"""MLM, masked language modelling: which word piece stood here? (All stages; paper section 3, section 4.4.)"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.model.positions import gather
from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import MASK_TOKENS
from msp_ds.tasks.scoring import asked_rows, counted, full_precision, mean_or_zero
from msp_ds.tasks.task import Context, Task, TaskResult


def asks(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, T]: the masked pieces."""
    return corrupted.corruption.masked_tokens & counted("mlm", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Cross-entropy over the vocabulary, mean over the masked pieces; accuracy on the same."""
    rows = asked_rows("mlm", asks(corrupted, context), context)
    logits = full_precision(heads["token"](gather(encoded.text, rows)))
    answers = gather(clean.token_ids, rows)
    return TaskResult(
        loss=mean_or_zero(F.cross_entropy(logits, answers, reduction="none"), rows.is_target),
        metrics={"accuracy/mlm": MeanMetric.of(logits.argmax(-1) == answers, rows.is_target)},
    )


MLM = Task(name="mlm", heads=("token",), corruptions=(MASK_TOKENS,), text_targets=asks, score=score)
