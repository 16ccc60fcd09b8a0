"""TITP, topic of image and text for phrases (phrase stage; paper section 3.2, equation 2).

Predicts the topics of a pair, the word pieces that stand both in its phrases and in its regions' labels, from the pair.
Loss: binary cross-entropy, mean over the vocabulary and the pairs (tasks/topics.py).
"""

from torch import nn

from msp_ds.records import Batch, Encoded
from msp_ds.tasks.scoring import full_precision, trained_pairs
from msp_ds.tasks.task import Context, Task, TaskResult
from msp_ds.tasks.topics import score_topics, topic_targets


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return the loss, precision, recall and F1; attribute labels count with the option `topic_attributes`."""
    topics = topic_targets(clean, context, attributes=context.options.topic_attributes)
    logits = full_precision(heads["topic"](encoded.pair))
    return score_topics("titp", logits, topics, trained_pairs("titp", clean, context).squeeze(1))


TITP = Task(name="titp", heads=("topic",), score=score, needs_labels=True)
