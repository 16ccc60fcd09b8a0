"""Commands that grade what a model has learned."""

# ruff: noqa: RUF009 (flag() returns a dataclasses.field)
from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from msp_ds.errors import InputError
from msp_ds.preparation.recipe import DEMO_RECIPE
from msp_ds.progress import bars
from msp_ds.terminal import Table, Terminal, resumable, speak
from msp_ds.training.engine.execution import find_shipped
from msp_ds.training.options import option

if TYPE_CHECKING:
    from msp_ds.evaluation.grading import QuestionSource
    from msp_ds.evaluation.model_evaluation import ModelOnSet

AnswerTask = Literal["vqa", "gqa", "nlvr2"]

CHECKPOINT = "A run, one of its step-* folders, or a weights folder."
PRESET = "Refuse a checkpoint of another preset than this."
flag = partial(option, commands="evaluate")
MODEL_ONLY = ("shards", "images", "precision", "part", "training_questions", "training_annotations", "preset")
"""Options of `evaluate --checkpoint`."""
FILE_ONLY = ("choices", "consistency", "answers", "against")
"""Options of `evaluate --predictions`."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to grade, and how. Raises InputError where options of a model and of a file of predictions are mixed."""

    checkpoint: Path | None = flag(CHECKPOINT)
    predictions: Path | None = flag("Or a submission file, or a score matrix (.npz): needs no model.")
    task: Literal["zero-shot-retrieval", "retrieval", "vqa", "gqa", "nlvr2"] | None = flag(
        "Benchmark whose rules grade. [zero-shot-retrieval]"
    )
    shards: Path | None = flag("A held-out set. [shards/TASK/val]")
    questions: str | None = flag("Official questions or statements, or LXMERT's. [the demo's]", metavar="FILE")
    annotations: str | None = flag("VQA: the official annotations.", metavar="FILE")
    training_questions: str | None = flag(
        "VQA: the training split's, for the baseline. [those among --questions]", metavar="FILE"
    )
    training_annotations: str | None = flag("VQA: annotations of the training split.", metavar="FILE")
    choices: str | None = flag("GQA: the choices, for validity and plausibility.", metavar="FILE")
    consistency: bool = flag("GQA: grade consistency, which needs unbalanced questions too.", False)
    answers: Path | None = flag("VQA: a vocabulary, for LXMERT's look-up score.")
    images: int | None = flag("Retrieval: number of images, from the first on. [all]")
    captions_per_image: int | None = flag(
        "Retrieval: captions of each image, which must have them. [all; 5 with --predictions]"
    )
    protocol: Literal["standard", "first-caption"] = flag(
        "Retrieval: rank all captions, or each image's first as in the paper's code.", "standard"
    )
    precision: Literal["fp32", "bf16"] | None = flag("Retrieval: bf16 is less exact. [fp32]")
    part: str | None = flag("Retrieval: 2/4 scores the second of four parts. [the launcher's rank]", metavar="PART")
    against: Path | None = flag("Another system's file, compared one by one.")
    preset: str | None = flag(PRESET, metavar="NAME")
    out: Path | None = flag("Folder for scores and grades, or with --predictions a .json file. [the run's]")

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.predictions is None):
            raise InputError("name what to grade: a model, --checkpoint RUN, or its answers, --predictions FILE")
        way, names = ("--predictions", MODEL_ONLY) if self.checkpoint is None else ("--checkpoint", FILE_ONLY)
        if mixed := [name for name in names if getattr(self, name) is not None and getattr(self, name) is not False]:
            raise InputError(f"--{mixed[0].replace('_', '-')} cannot be combined with {way}; leave one of them out")
        if self.predictions and not self.task:
            raise InputError("name the benchmark whose rules grade the file: --task vqa, gqa, nlvr2 or retrieval")

    @property
    def source(self) -> QuestionSource:
        """The files of the questions."""
        from msp_ds.evaluation.grading import QuestionSource

        return QuestionSource(
            questions=self.questions, annotations=self.annotations, choices=self.choices, answers=self.answers
        )

    def model(self, name: str) -> ModelOnSet:
        """Return the model, and the set it is graded on: by default the held-out one of the set `name`."""
        from msp_ds.evaluation.model_evaluation import ModelOnSet

        shards = self.shards or Path("shards") / name / "val"
        return ModelOnSet(checkpoint=self.checkpoint or Path(), shards=shards, preset=self.preset, out=self.out)


def evaluate(options: EvaluationOptions) -> None:
    """Grade a model, or a file of predictions. Grades follow the official rules and have 95 % intervals."""
    if options.predictions is not None:
        shown = _grade_file(options, options.predictions)
    elif options.task in ("vqa", "gqa", "nlvr2"):
        shown = _grade_answers(options, options.task)
    else:
        shown = _grade_ranking(options)
    for one in shown:
        Terminal().print(one)


def _grade_file(options: EvaluationOptions, predictions: Path) -> tuple[Table | str, ...]:
    from msp_ds.evaluation.grading import GradingPlan, grade_and_compare
    from msp_ds.storage.atomic_files import require_plain_file

    require_plain_file(options.out)
    plan = GradingPlan(
        task="retrieval" if options.task is None or options.task == "zero-shot-retrieval" else options.task,
        source=options.source,
        consistency=options.consistency,
        protocol=options.protocol,
        captions_per_image=5 if options.captions_per_image is None else options.captions_per_image,
    )
    with bars(f"grading {predictions}", is_drawn=False):
        return (grade_and_compare(plan, predictions, against=options.against, out=options.out),)


def _grade_answers(options: EvaluationOptions, task: AnswerTask) -> tuple[Table | str, ...]:
    from msp_ds.evaluation.grading import QuestionSource
    from msp_ds.evaluation.model_evaluation import grade_answers

    training = QuestionSource(questions=options.training_questions, annotations=options.training_annotations)
    return grade_answers(
        options.model(task), task=task, source=options.source, training=training, demo_recipe=find_shipped(DEMO_RECIPE)
    )


def _grade_ranking(options: EvaluationOptions) -> tuple[Table | str, ...]:
    from msp_ds.evaluation.model_evaluation import grade_ranking
    from msp_ds.evaluation.retrieval_evaluation import RetrievalPlan
    from msp_ds.evaluation.score_cache import read_part

    speak()
    with resumable():
        part = read_part(options.part, os.environ)
        return grade_ranking(
            options.model("retrieval" if options.task == "retrieval" else "sentence"),
            num_images=options.images,
            captions_per_image=options.captions_per_image,
            plan=RetrievalPlan(protocol=options.protocol, precision=options.precision or "fp32", part=part),
        )


def predict(
    checkpoint: Annotated[Path, typer.Option(help=CHECKPOINT)],
    task: Annotated[AnswerTask, typer.Option(help="Benchmark whose questions to answer.")],
    shards: Annotated[Path | None, typer.Option(help="The set to answer. [shards/TASK/test]")] = None,
    out: Annotated[Path | None, typer.Option(help="The submission file. [in the run's folder]")] = None,
    preset: Annotated[str | None, typer.Option(help=PRESET)] = None,
) -> None:
    """Write a model's answers as a benchmark's server wants."""
    from msp_ds.evaluation.model_evaluation import ModelOnSet, answer_questions

    chosen = ModelOnSet(checkpoint=checkpoint, shards=shards or Path("shards") / task / "test", preset=preset, out=out)
    predictions = answer_questions(chosen, task=task)
    Terminal(soft_wrap=True).print(f"{len(predictions.answers)} answers in {predictions.path}")
