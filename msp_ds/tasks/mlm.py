"""MLM, masked language modelling: which word piece stood here? (All stages; paper section 3, section 4.4.)"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.model.positions import take
from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.corruptions import MASK_TOKENS
from msp_ds.tasks.scoring import asked_rows, counted, full_precision, mean_or_zero
from msp_ds.tasks.task import Context, Score, Task


def asks(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, T]: the masked pieces."""
    return corrupted.marks.masked_tokens & counted("mlm", corrupted, context)


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> Score:
    """Cross-entropy over the vocabulary, mean over the masked pieces; accuracy on the same."""
    rows = asked_rows("mlm", asks(corrupted, context), context)
    logits = full_precision(heads["token"](take(encoded.text, rows)))
    answers = take(clean.token_ids, rows)
    return Score(
        loss=mean_or_zero(F.cross_entropy(logits, answers, reduction="none"), rows.asked),
        metrics={"accuracy/mlm": MeanMetric.of(logits.argmax(-1) == answers, rows.asked)},
    )


MLM = Task(name="mlm", heads=("token",), corruptions=(MASK_TOKENS,), asks_text=asks, score=score)
