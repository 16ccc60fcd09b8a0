"""NLVR2: is the statement about the two images true? (Paper section 4.3; docs/evaluation.md, Fine-tuning heads.)"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.task import Context, PairSampler, PairSource, SampledPairs, Task, TaskResult


def both_images(pairs: Tensor, table: PairSource, context: Context) -> SampledPairs:
    """Read each statement twice: a block of B rows with the left images, then one with the right images."""
    if table.second_images is None:
        raise ValueError("the set has no statements about two images")
    images = torch.cat((table.images[pairs], table.second_images[pairs]))
    return SampledPairs(pairs=pairs.repeat(2), images=images, matched=torch.ones(len(images), dtype=torch.bool))


def statement_logits(heads: nn.ModuleDict, encoded: Encoded) -> Tensor:
    """float32 [B, 2] from 2 B encoded rows, left images first; index 1 means true."""
    left, right = encoded.pair.chunk(2)
    return cast(Tensor, heads["statement"](torch.cat((left, right), dim=1)).float())


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return two-way cross-entropy, mean over the statements, and the accuracy."""
    logits = statement_logits(heads, encoded)
    wanted = clean.answer_ids[: len(logits), 0]
    return TaskResult(
        loss=F.cross_entropy(logits, wanted),
        metrics={"accuracy/nlvr2": MeanMetric.of(logits.argmax(1) == wanted)},
    )


NLVR2 = Task(
    name="nlvr2",
    heads=("statement",),
    score=score,
    answer_logits=statement_logits,
    pair_sampler=PairSampler(choose=both_images, rows=2, uses_hard_negatives=False),
    needs_questions=True,
)
