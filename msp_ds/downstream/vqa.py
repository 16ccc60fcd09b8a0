"""VQA v2 and GQA: which answer of a given vocabulary fits the question? (Section 4.3; docs/evaluation.md.)"""

import dataclasses
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.task import Context, Task, TaskResult


def wanted_scores(batch: Batch, num_answers: int) -> Tensor:
    """float32 [B, A]: the score of each answer of the vocabulary, 0 to 1."""
    # Padding goes to an extra column, which is cut off.
    places = torch.where(batch.answer_ids < 0, num_answers, batch.answer_ids)
    wanted = batch.answer_scores.new_zeros(len(places), num_answers + 1)
    return wanted.scatter_(1, places, batch.answer_scores)[:, :num_answers]


def answer_logits(heads: nn.ModuleDict, encoded: Encoded) -> Tensor:
    """float32 [B, A]: logits over the answers."""
    return cast(Tensor, heads["answer"](encoded.pair).float())


def score(
    heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context, *, name: str = "vqa"
) -> TaskResult:
    """Return the loss and the accuracy, the soft label of the answer with the largest logit (LXMERT's score).

    Loss: binary cross-entropy, sum over the answers and mean over the questions; with the option `answer_loss=ce`, the
    cross-entropy of the best answer.
    """
    logits = answer_logits(heads, encoded)
    wanted = wanted_scores(clean, logits.shape[1])
    if context.options.answer_loss == "ce":
        # Questions without an answer in the vocabulary do not count.
        best, is_answered = wanted.argmax(1), wanted.amax(1) > 0
        losses = F.cross_entropy(logits, best, reduction="none") * is_answered
        loss = losses.sum() / is_answered.sum().clamp(min=1)
    else:
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
    right = wanted.gather(1, logits.argmax(1, keepdim=True))
    return TaskResult(loss=loss, metrics={f"accuracy/{name}": MeanMetric.of(right)})


VQA = Task(name="vqa", heads=("answer",), score=score, answer_logits=answer_logits, needs_questions=True)
GQA = dataclasses.replace(VQA, name="gqa", score=partial(score, name="gqa"))
