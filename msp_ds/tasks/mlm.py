"""MLM, masked language modelling: which word piece stood here? (All stages; paper section 3, section 4.4.)"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded, Tally
from msp_ds.tasks.corruptions import MASK_TOKENS
from msp_ds.tasks.scoring import counted, full_precision, mean_or_zero
from msp_ds.tasks.task import Context, Score, Task


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, posed: Batch, context: Context) -> Score:
    """Cross-entropy over the vocabulary, mean over the masked pieces; accuracy on the same."""
    asked = posed.marks.masked_tokens & counted("mlm", posed, context)
    logits = full_precision(heads["token"](encoded.text[asked]))
    answers = clean.token_ids[asked]
    return Score(
        loss=mean_or_zero(F.cross_entropy(logits, answers, reduction="none")),
        tallies={"accuracy/mlm": Tally.of(logits.argmax(-1) == answers)},
    )


MLM = Task(name="mlm", heads=("token",), corruptions=(MASK_TOKENS,), score=score)
