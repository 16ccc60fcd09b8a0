"""TITS, topic of image and text for sentences (sentence stage; paper section 3.3, equation 4).

Predicts the topics of a pair, the word pieces that stand both in its caption and in its regions' object labels, from
the pair. A replaced image brings its own labels, so a mismatched pair has few topics.
Loss: binary cross-entropy, mean over the vocabulary and the pairs (tasks/topics.py).
"""

from torch import nn

from msp_ds.records import Batch, Encoded
from msp_ds.tasks.scoring import full_precision, trained_pairs
from msp_ds.tasks.task import Context, Task, TaskResult
from msp_ds.tasks.topics import score_topics, topic_targets


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return the loss, precision, recall and F1."""
    topics = topic_targets(clean, context, attributes=False)
    logits = full_precision(heads["topic"](encoded.pair))
    return score_topics("tits", logits, topics, trained_pairs("tits", clean, context).squeeze(1))


TITS = Task(name="tits", heads=("topic",), score=score, needs_labels=True)
