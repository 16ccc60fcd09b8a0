"""TITP, topic of image and text for phrases: which words are both said and seen? (Phrase stage; section 3.2, eq. 2.)"""

from __future__ import annotations

from torch import nn

from msp_ds.records import Batch, Encoded
from msp_ds.tasks.scoring import counted, full_precision, score_topics, topic_targets
from msp_ds.tasks.task import Context, Task, TaskResult


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Binary cross-entropy over the vocabulary, with the attributes' words as topics if the options say so."""
    topics = topic_targets(clean, context, attributes=context.options.topic_attributes)
    logits = full_precision(heads["topic"](encoded.pair))
    return score_topics("titp", logits, topics, counted("titp", clean, context).squeeze(1))


TITP = Task(name="titp", heads=("topic",), score=score, needs_labels=True)
