"""VQA v2 and GQA: which answer of a given vocabulary fits the question? (Section 4.3; docs/evaluation.md.)"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.task import Context, Task, TaskResult


def wanted_scores(batch: Batch, num_answers: int) -> Tensor:
    """float32 [B, A]: how right each answer would be."""
    # Unused places go to an extra column, which is cut off; an answer's score stands there once.
    places = torch.where(batch.answer_ids < 0, num_answers, batch.answer_ids)
    wanted = batch.answer_scores.new_zeros(len(places), num_answers + 1)
    return wanted.scatter_(1, places, batch.answer_scores)[:, :num_answers]


def answer_logits(heads: nn.ModuleDict, encoded: Encoded) -> Tensor:
    """float32 [B, A]."""
    logits: Tensor = heads["answer"](encoded.pair).float()
    return logits


def score(
    heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context, *, name: str = "vqa"
) -> TaskResult:
    """Binary cross-entropy summed over the answers, or one cross-entropy for all; mean over the questions.

    `accuracy/vqa` is LXMERT's lookup score: how right the answer with the largest logit is, by the soft labels.
    """
    logits = answer_logits(heads, encoded)
    wanted = wanted_scores(clean, logits.shape[1])
    if context.options.answer_loss == "ce":
        # A question without a known answer asks nothing.
        best, asked = wanted.argmax(1), wanted.amax(1) > 0
        losses = F.cross_entropy(logits, best, reduction="none") * asked
        loss = losses.sum() / asked.sum().clamp(min=1)
    else:
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
    right = wanted.gather(1, logits.argmax(1, keepdim=True))
    return TaskResult(loss=loss, metrics={f"accuracy/{name}": MeanMetric.of(right)})


VQA = Task(name="vqa", heads=("answer",), score=score, answer_logits=answer_logits, needs_questions=True)
GQA = dataclasses.replace(VQA, name="gqa", score=partial(score, name="gqa"))
