"""Adds an eighth pre-training task: masked object words, MOW. Which word named the thing in the picture?

    msp-ds shard --stage sentence          (once: makes the demo world and its shards)
    python examples/add_a_task.py          (under a minute on two CPU cores)

MLM hides 15 % of all word pieces, and most of those can be guessed from the rest of the sentence: "a man _ a horse".
MOW hides half of the words that name an object which the detector saw, so that the model has to look at the picture.

Trains the sentence stage with the new task beside its own five for 20 steps. The new loss is about 6.0 over the first
ten, 5.1 over the next, 5.0 on held-out pairs; with --steps 400 (three minutes) 2.2.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import typer
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.curriculum import STAGES, Stage
from msp_ds.model.positions import gather
from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.tasks.scoring import full_precision, mean_or_zero, target_positions
from msp_ds.tasks.task import Context, Corruption, Task, TaskResult
from msp_ds.tasks.topics import topic_targets
from msp_ds.terminal import run_tool
from msp_ds.train import start
from msp_ds.training.monitoring.metrics_file import METRICS_FILE, read_metrics
from msp_ds.training.options import RunOptions


# 1. What happens to the input. A draw depends on the pair's key and the epoch, not on the batch or the other tasks.
def hide_object_words(batch: Batch, context: Context) -> Batch:
    """The batch with half of the words that name an object in the picture replaced by [MASK]."""
    draws = context.draw(batch.keys, "object word hidden", batch.token_ids.shape[1])  # float32 [B, T] in [0, 1)
    hidden = topic_targets(batch, context, attributes=False).wanted & ~batch.corruption.masked_tokens & (draws < 0.5)
    return dataclasses.replace(batch, token_ids=batch.token_ids.masked_fill(hidden, context.tables.mask_id))


# 2. The states that the task reads; the last layer and the head compute no others.
def hidden_words(corrupted: Batch, context: Context) -> Tensor:
    """bool [B, T]: the pieces that this task hid, and not MLM."""
    return (corrupted.token_ids == context.tables.mask_id) & ~corrupted.corruption.masked_tokens


# 3. The loss: what the head predicts from those states, compared with the clean batch.
def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Cross-entropy over the vocabulary, mean over the hidden words."""
    positions = target_positions("mow", hidden_words(corrupted, context), context)
    logits = full_precision(heads["token"](gather(encoded.text, positions)))  # float32 [N, V]
    words = gather(clean.token_ids, positions)  # int64 [N]
    loss = mean_or_zero(F.cross_entropy(logits, words, reduction="none"), positions.is_target)
    right = MeanMetric.of(logits.argmax(-1) == words, positions.is_target)
    return TaskResult(loss=loss, metrics={"accuracy/mow": right})


# 4. The task itself. MLM hides its words first (its order is 2), so that MOW can leave those alone.
MOW = Task(
    name="mow",
    heads=("token",),  # shared with MLM; other heads are in msp_ds/model/heads.py
    corruptions=(Corruption(name="hide object words", order=3, apply=hide_object_words),),
    text_targets=hidden_words,
    score=score,
    needs_labels=True,
)


def main(shards: Path = Path("shards"), run_dir: Path = Path("runs/add_a_task"), steps: int = 20) -> None:
    """Train the sentence stage with the new task and print how its loss falls."""
    (sentence,) = (part for part in STAGES if part.name == "sentence")
    stage = Stage(parts=(dataclasses.replace(sentence, tasks=(*sentence.tasks, MOW)),))
    start(RunOptions(curriculum="s", shards=str(shards), max_steps=steps, run_dir=run_dir), stages=(stage,))
    for row in read_metrics(run_dir / "1-sentence" / METRICS_FILE):
        typer.echo(f"{row['report']}, step {row['step']}: loss of MOW {row['loss/mow']:.2f}")


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
