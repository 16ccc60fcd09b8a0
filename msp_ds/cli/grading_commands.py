"""Commands that grade what was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from msp_ds.terminal import one_line_errors
from msp_ds.train import Debug


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="A run, or one of its step-* folders.")],
    task: Annotated[Literal["zero-shot-retrieval"], typer.Option(help="What to grade it on.")] = "zero-shot-retrieval",
    shards: Annotated[Path, typer.Option(help="A held-out set.")] = Path("shards/sentence/val"),
    images: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    captions_per_image: Annotated[int | None, typer.Option(help="Only so many of each image's captions.")] = None,
    preset: Annotated[str | None, typer.Option(help="Refuse a checkpoint of another preset than this.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores and grades. [the run's]")] = None,
    debug: Debug = False,
) -> None:
    """Grade a checkpoint: rank images for captions and captions for images, zero-shot."""
    from msp_ds.data.shards import open_set
    from msp_ds.report.retrieval import evaluate_retrieval, retrieval_table
    from msp_ds.training.inference import load_trained
    from msp_ds.training.run_folder import run_of_checkpoint

    with one_line_errors(debug=debug):
        held_out = open_set(shards)
        model = load_trained(checkpoint, shards=held_out, needed_heads=("match",), preset=preset)
        folder = out or run_of_checkpoint(model.checkpoint)
        report = evaluate_retrieval(
            model, held_out, num_images=images, captions_per_image=captions_per_image, out=folder
        )
    Console().print(retrieval_table(report))
    Console(soft_wrap=True).print(f"written to {report.path}, the scores beside it", highlight=False, markup=False)


def grade(
    predictions: Annotated[Path, typer.Argument(help="A submission file, or a retrieval score matrix, .npz.")],
    task: Annotated[Literal["vqa", "gqa", "nlvr2", "retrieval"], typer.Option(help="Whose official rules.")],
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
    from msp_ds.report.grades import GradingPlan, QuestionSource, grade_and_compare

    with one_line_errors(debug=debug):
        source = QuestionSource(questions=questions, annotations=annotations, choices=choices, answers=answers)
        plan = GradingPlan(
            task=task, source=source, consistency=consistency, protocol=protocol, captions_per_image=captions_per_image
        )
        Console().print(grade_and_compare(plan, predictions, against=against, out=out), highlight=False)
