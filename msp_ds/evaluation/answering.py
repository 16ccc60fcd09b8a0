"""Answers of a fine-tuned model to the questions of a shard set, for any benchmark of questions.

B questions in a batch, A answers to choose from.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from msp_ds.data.format.requirements import require_questions
from msp_ds.data.loading.reader import Reader
from msp_ds.model.encoder import Backbone
from msp_ds.tasks.task import Context, Task, pair_sampler

BATCH = 128


class Answerer:
    """Answers the questions of one benchmark, with dropout off."""

    def __init__(self, backbone: Backbone, heads: nn.ModuleDict, task: Task, context: Context) -> None:
        if task.answer_logits is None:
            raise ValueError(f"task {task.name} answers no questions")
        self.backbone = backbone.eval()
        self.heads = heads.eval()
        self.task = task
        self._logits = task.answer_logits
        self._context = context
        self.device = next(backbone.parameters()).device

    @torch.no_grad()
    def logits(self, reader: Reader, pairs: Tensor) -> Tensor:
        """Return float32 [B, A] logits on the CPU, for int64 [B] `pairs`."""
        chosen = pair_sampler([self.task]).choose(pairs, reader, self._context)
        batch = reader.read(
            chosen.pairs, images=chosen.images, matched=chosen.matched, random_regions=torch.empty(len(chosen.pairs), 0)
        )
        return self._logits(self.heads, self.backbone(batch.to(self.device))).cpu()

    def answers(self, reader: Reader, *, advance: Callable[[int], None] = lambda questions: None) -> dict[str, str]:
        """Return the most probable answer by question id; `advance` is called with the number of finished questions."""
        questions = require_questions(reader.shards, task=self.task.name)
        found: dict[str, str] = {}
        for pairs in torch.split(torch.arange(len(reader.keys)), BATCH):
            best = self.logits(reader, pairs).argmax(1).tolist()
            for row, place in zip(pairs.tolist(), best, strict=True):
                found[questions.question_ids[row].decode("ascii")] = questions.answers[place]
            advance(len(pairs))
        return found
