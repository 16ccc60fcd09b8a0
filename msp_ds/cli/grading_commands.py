"""Commands that grade what was learnt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from msp_ds.curriculum import BenchmarkName
from msp_ds.preparation.recipe import DEMO_RECIPE
from msp_ds.progress import bars
from msp_ds.terminal import Terminal, one_line_errors, resumable, speak
from msp_ds.train import Debug
from msp_ds.training.engine.execution import find_shipped

Checkpoint = Annotated[Path, typer.Option(help="A run, one of its step-* folders, or a weights folder.")]
Questions = Annotated[str | None, typer.Option(help="Official questions or statements, or LXMERT's. [the demo's]")]
Annotations = Annotated[str | None, typer.Option(help="VQA: the official annotations.")]
TrainingQuestions = Annotated[
    str | None, typer.Option(help="VQA: the training split's, for the baseline. [those of --questions that are in it]")
]
TrainingAnnotations = Annotated[str | None, typer.Option(help="VQA: their official annotations.")]
AnswerTask = Literal["vqa", "gqa", "nlvr2"]
Files = tuple[str | None, str | None]
"""Of questions and of annotations."""


def evaluate(
    checkpoint: Checkpoint,
    task: Annotated[
        Literal["zero-shot-retrieval", "retrieval", "vqa", "gqa", "nlvr2"], typer.Option(help="What to grade it on.")
    ] = "zero-shot-retrieval",
    shards: Annotated[Path | None, typer.Option(help="A held-out set. [shards/TASK/val]")] = None,
    images: Annotated[int | None, typer.Option(help="Retrieval: only the first so many images.")] = None,
    captions_per_image: Annotated[
        int | None, typer.Option(help="Retrieval: only so many of each image's, which it must have.")
    ] = None,
    protocol: Annotated[
        Literal["standard", "first-caption"],
        typer.Option(
            help="Retrieval: text retrieval among all captions, or each image's first as in the paper's code."
        ),
    ] = "standard",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Retrieval: bf16 is less exact.")] = "fp32",
    part: Annotated[
        str | None,
        typer.Option(help="Retrieval: 2/4 scores the second of four parts. [the rank under torchrun, deepspeed]"),
    ] = None,
    questions: Questions = None,
    annotations: Annotations = None,
    training_questions: TrainingQuestions = None,
    training_annotations: TrainingAnnotations = None,
    preset: Annotated[str | None, typer.Option(help="Refuse a checkpoint of another preset than this.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores and grades. [the run's]")] = None,
    debug: Debug = False,
) -> None:
    """Grade a checkpoint: its answers by the official rules, or how well it ranks images and captions."""
    from msp_ds.data.format.shards import open_set
    from msp_ds.evaluation.retrieval_evaluation import RetrievalPlan, report_retrieval, retrieval_table, score_retrieval
    from msp_ds.evaluation.score_cache import read_part
    from msp_ds.training.checkpointing.inference import load_trained
    from msp_ds.training.checkpointing.run_folder import results_folder

    if task in ("vqa", "gqa", "nlvr2"):
        files = (questions, annotations), (training_questions, training_annotations)
        _evaluate_answers(checkpoint, task, shards, files, preset=preset, out=out, debug=debug)
        return
    speak()
    with one_line_errors(debug=debug), resumable():
        plan = RetrievalPlan(protocol=protocol, precision=precision, part=read_part(part, os.environ))
        held_out = open_set(shards or Path("shards") / ("retrieval" if task == "retrieval" else "sentence") / "val")
        with bars("loading the model", is_drawn=False):
            model = load_trained(checkpoint, shards=held_out, needed_heads=("match",), preset=preset)
        folder = out or results_folder(model.checkpoint)
        scored = score_retrieval(
            model, held_out, num_images=images, captions_per_image=captions_per_image, out=folder, plan=plan
        )
        if num_missing := scored.kept.num_missing():
            told = f"{plan.part} is scored; {num_missing} captions are left to other parts, the last of which grades"
            Terminal(soft_wrap=True).print(told)
            return
        report = report_retrieval(scored, plan)
    Terminal().print(retrieval_table(report))
    Terminal(soft_wrap=True).print(f"written to {report.path}, the scores beside it")


def _evaluate_answers(
    checkpoint: Path,
    task: AnswerTask,
    shards: Path | None,
    files: tuple[Files, Files],
    *,
    preset: str | None,
    out: Path | None,
    debug: bool,
) -> None:
    from msp_ds.evaluation.answer_evaluation import (
        grade_predictions,
        heads_of,
        open_questions,
        predict_answers,
        source_of,
    )
    from msp_ds.evaluation.blind_baseline import with_baseline
    from msp_ds.evaluation.grading import QuestionSource, grades_table, write_grades
    from msp_ds.training.checkpointing.inference import load_trained
    from msp_ds.training.checkpointing.run_folder import results_folder

    (questions, annotations), (training, answered) = files
    with one_line_errors(debug=debug):
        held_out = open_questions(shards or Path("shards") / task / "val", task=task)
        with bars("loading the model", is_drawn=False):
            model = load_trained(checkpoint, shards=held_out, needed_heads=heads_of(task), preset=preset)
        folder = out or results_folder(model.checkpoint)
        stem = f"{task}-{model.checkpoint.name}-on-{held_out.index.split}"
        predictions = predict_answers(model, held_out, task=task, out=folder / f"{stem}-predictions.{_ending(task)}")
        source = source_of(
            held_out, task=task, demo_recipe=find_shipped(DEMO_RECIPE), questions=questions, annotations=annotations
        )
        learnt_from = QuestionSource(questions=training, annotations=answered)
        with bars("grading", is_drawn=False):
            graded, plan = grade_predictions(predictions, task=task, source=source)
            graded = with_baseline(graded, plan, shards=held_out, training=learnt_from)
            write_grades(folder / f"{stem}.json", graded, plan)
    Terminal().print(grades_table(graded, plan, title=f"{task}: {held_out.path}"))
    Terminal(soft_wrap=True).print(f"written to {folder / stem}.json, the answers beside it")


def _ending(task: str) -> str:
    """Of a submission file."""
    return "csv" if task == "nlvr2" else "json"


def predict(
    checkpoint: Checkpoint,
    task: Annotated[AnswerTask, typer.Option(help="Which benchmark's questions.")],
    shards: Annotated[Path | None, typer.Option(help="The set to answer. [shards/TASK/test]")] = None,
    out: Annotated[Path | None, typer.Option(help="The submission file. [in the run's folder]")] = None,
    preset: Annotated[str | None, typer.Option(help="Refuse a checkpoint of another preset than this.")] = None,
    debug: Debug = False,
) -> None:
    """Answer the questions of a set, and write the file that the benchmark's server takes."""
    from msp_ds.evaluation.answer_evaluation import heads_of, open_questions, predict_answers
    from msp_ds.storage.atomic_files import require_plain_file
    from msp_ds.training.checkpointing.inference import load_trained
    from msp_ds.training.checkpointing.run_folder import results_folder

    with one_line_errors(debug=debug):
        require_plain_file(out)
        asked = open_questions(shards or Path("shards") / task / "test", task=task)
        with bars("loading the model", is_drawn=False):
            model = load_trained(checkpoint, shards=asked, needed_heads=heads_of(task), preset=preset)
        path = out or results_folder(model.checkpoint) / f"{task}-{asked.index.split}-predictions.{_ending(task)}"
        predictions = predict_answers(model, asked, task=task, out=path)
    Terminal(soft_wrap=True).print(f"{len(predictions.answers)} answers in {path}")


def grade(
    predictions: Annotated[Path, typer.Argument(help="A submission file, or a retrieval score matrix, .npz.")],
    task: Annotated[BenchmarkName, typer.Option(help="Whose official rules.")],
    questions: Annotated[str | None, typer.Option(help="Official questions or statements, or LXMERT's.")] = None,
    annotations: Annotated[str | None, typer.Option(help="VQA: the official annotations.")] = None,
    choices: Annotated[str | None, typer.Option(help="GQA: for validity and plausibility.")] = None,
    consistency: Annotated[bool, typer.Option("--consistency", help="GQA: of unbalanced questions too.")] = False,
    answers: Annotated[Path | None, typer.Option(help="VQA: a vocabulary, for LXMERT's look-up score.")] = None,
    protocol: Annotated[Literal["standard", "first-caption"], typer.Option(help="Retrieval.")] = "standard",
    captions_per_image: Annotated[int, typer.Option(help="Retrieval: which every image must have.")] = 5,
    against: Annotated[Path | None, typer.Option(help="Another system's file, compared one by one.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the grades, .json.")] = None,
    debug: Debug = False,
) -> None:
    """Grade a file of predictions by the official rules, with 95 % intervals; needs no model."""
    from msp_ds.evaluation.grading import GradingPlan, QuestionSource, grade_and_compare
    from msp_ds.storage.atomic_files import require_plain_file

    with one_line_errors(debug=debug):
        require_plain_file(out)
        source = QuestionSource(questions=questions, annotations=annotations, choices=choices, answers=answers)
        plan = GradingPlan(
            task=task, source=source, consistency=consistency, protocol=protocol, captions_per_image=captions_per_image
        )
        with bars(f"grading {predictions}", is_drawn=False):
            table = grade_and_compare(plan, predictions, against=against, out=out)
        Terminal().print(table)
