"""Evaluation of a question benchmark: predict the answers, write the submission file, grade it.

B questions in a batch, A answers to choose from.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from msp_ds.config import TaskOptions
from msp_ds.curriculum import BENCHMARKS, BenchmarkName
from msp_ds.data.format.requirements import require_questions
from msp_ds.data.format.set_layout import DEMO_EXTRACTOR
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.downstream.score import Score
from msp_ds.downstream.submissions import SUBMISSIONS
from msp_ds.errors import InputError, ShardError, writing
from msp_ds.evaluation.grading import Graded, GradingPlan, QuestionSource, grade_file
from msp_ds.model.encoder import Backbone
from msp_ds.preparation.recipe import load_recipe
from msp_ds.progress import bars
from msp_ds.tasks.task import Context, Task, pair_sampler
from msp_ds.training.checkpointing.inference import TrainedModel

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


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The answers to the questions of a set."""

    answers: dict[str, str]  # question id to answer
    path: Path  # the submission file
    lookup: Score | None  # LXMERT's local score by the set's own soft labels; None if the set has no labels


def heads_of(task: str) -> tuple[str, ...]:
    """Return the names of the heads that a benchmark needs."""
    return BENCHMARKS[task].tasks[0].heads


def open_questions(path: Path, *, task: BenchmarkName) -> ShardSet:
    """Open a shard set. Raises: ShardError unless it holds the questions of this benchmark."""
    shards = open_set(path)
    if shards.index.stage != task:
        raise ShardError(f"{path} was written for {shards.index.stage}, not for {task}; name a set of shards/{task}")
    return shards


def predict_answers(model: TrainedModel, shards: ShardSet, *, task: BenchmarkName, out: Path) -> Predictions:
    """Answer every question of a set and write the official submission file `out`.

    Raises: InputError when the file cannot be written, ShardError for a set without questions.
    """
    with writing(out, fix="name another --out"):  # before the work rather than after it
        out.parent.mkdir(parents=True, exist_ok=True)
    reader, questions = Reader(shards), require_questions(shards, task=task)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context = Context(
        seed=0,
        epoch=0,
        options=model.config.tasks if model.config else TaskOptions(),
        tables=shards.tables(),
        feature_mean=torch.from_numpy(shards.feature_mean),
    )
    answerer = Answerer(model.backbone.to(device), model.heads.to(device), BENCHMARKS[task].tasks[0], context)
    with bars() as progress:
        progress.start(f"answering {task}", len(reader.keys))
        answers = answerer.answers(reader, advance=progress.advance)
    SUBMISSIONS[task].write(out, answers)
    return Predictions(
        answers=answers, path=out, lookup=_lookup(reader, answers) if len(questions.answer_ids) else None
    )


def _lookup(reader: Reader, answers: dict[str, str]) -> Score:
    questions = require_questions(reader.shards, task="lookup")
    number = {answer: index for index, answer in enumerate(questions.answers)}
    wanted, scores = questions.right_answers(np.arange(len(reader.keys)))
    predicted = np.array([number[answers[one.decode("ascii")]] for one in questions.question_ids.tolist()])
    earned = np.where(wanted == predicted[:, None], scores, 0.0).sum(axis=1)
    return Score(values=tuple(earned.tolist()))


def grade_predictions(
    predictions: Predictions, *, task: BenchmarkName, source: QuestionSource
) -> tuple[Graded, GradingPlan]:
    """Grade by the official rules if `source` names the questions, and by LXMERT's look-up score if the set has labels.

    Raises: InputError when neither is possible, or the files do not hold the set's questions.
    """
    plan = GradingPlan(task=task, source=dataclasses.replace(source, only=frozenset(predictions.answers)))
    graded = Graded(scores={}) if source.questions is None else grade_file(plan, predictions.path)
    if predictions.lookup is not None and "lookup" not in graded.scores:
        note = "; ".join(filter(None, (graded.note, "lookup: LXMERT's score by the shards' own labels, not official")))
        graded = dataclasses.replace(graded, scores={**graded.scores, "lookup": predictions.lookup}, note=note)
    if not graded.scores:
        raise InputError(
            f"the shards of a test split hold no answers to grade by; send {predictions.path} to the benchmark's server"
        )
    return graded, plan


def source_of(
    shards: ShardSet, *, task: str, demo_recipe: Path, questions: str | None, annotations: str | None
) -> QuestionSource:
    """Return the named official files; for shards of the demo world without one, those of its recipe."""
    if questions is None and shards.index.extractor == DEMO_EXTRACTOR:
        recipe = load_recipe(demo_recipe).benchmarks.get(task)
        if recipe is not None and recipe.questions and Path(recipe.questions[0]).exists():
            return QuestionSource(questions=recipe.questions[0], annotations=(*recipe.annotations, None)[0])
    return QuestionSource(questions=questions, annotations=annotations)
