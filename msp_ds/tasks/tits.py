"""TITS, topic of image and text for sentences: which words are both said and seen? (Sentence stage; eq. 4.)"""

from __future__ import annotations

from torch import nn

from msp_ds.records import Batch, Encoded
from msp_ds.tasks.scoring import counted, full_precision, score_topics, topic_targets
from msp_ds.tasks.task import Context, Task, TaskResult


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Binary cross-entropy over the vocabulary; the topics are those of the pair actually fed, few if mismatched."""
    topics = topic_targets(clean, context, attributes=False)
    logits = full_precision(heads["topic"](encoded.pair))
    return score_topics("tits", logits, topics, counted("tits", clean, context).squeeze(1))


TITS = Task(name="tits", heads=("topic",), score=score, needs_labels=True)
