"""Evaluations of a checkpoint: load the model, let it answer or score, grade, and write the results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msp_ds.data.format.shards import open_set
from msp_ds.evaluation.answer_evaluation import (
    Predictions,
    grade_predictions,
    heads_of,
    open_questions,
    predict_answers,
    source_of,
)
from msp_ds.evaluation.blind_baseline import with_baseline
from msp_ds.evaluation.grading import QuestionSource, grades_table, write_grades
from msp_ds.evaluation.retrieval_evaluation import RetrievalPlan, report_retrieval, retrieval_table, score_retrieval
from msp_ds.progress import bars
from msp_ds.storage.atomic_files import require_plain_file
from msp_ds.terminal import Table
from msp_ds.training.checkpointing.inference import load_trained
from msp_ds.training.checkpointing.run_folder import results_folder

AnswerTask = Literal["vqa", "gqa", "nlvr2"]


@dataclass(frozen=True, kw_only=True)
class ModelOnSet:
    """A model, the shard set to evaluate it on, and the place of the results."""

    checkpoint: Path
    shards: Path
    preset: str | None = None  # preset that the checkpoint must be of; None accepts any
    out: Path | None = None
    """Folder of the results, of `answer_questions` their file; None for the run's folder."""


def answer_questions(chosen: ModelOnSet, *, task: AnswerTask) -> Predictions:
    """Answer the questions of a set and write the file that the benchmark's server accepts."""
    require_plain_file(chosen.out)
    questions = open_questions(chosen.shards, task=task)
    with bars("loading the model", is_drawn=False):
        model = load_trained(chosen.checkpoint, shards=questions, needed_heads=heads_of(task), preset=chosen.preset)
    name = f"{task}-{questions.index.split}-predictions{_ending(task)}"
    return predict_answers(model, questions, task=task, out=chosen.out or results_folder(model.checkpoint) / name)


def grade_answers(
    chosen: ModelOnSet, *, task: AnswerTask, source: QuestionSource, training: QuestionSource, demo_recipe: Path
) -> tuple[Table, str]:
    """Answer the questions of a held-out set and grade them; return what to show.

    training: files of the training split, for the baseline. Raises InputError as `grade_predictions`.
    """
    held_out = open_questions(chosen.shards, task=task)
    with bars("loading the model", is_drawn=False):
        model = load_trained(chosen.checkpoint, shards=held_out, needed_heads=heads_of(task), preset=chosen.preset)
    stem = f"{task}-{model.checkpoint.name}-on-{held_out.index.split}"
    folder = chosen.out or results_folder(model.checkpoint)
    predictions = predict_answers(model, held_out, task=task, out=folder / f"{stem}-predictions{_ending(task)}")
    source = source_of(
        held_out, task=task, demo_recipe=demo_recipe, questions=source.questions, annotations=source.annotations
    )
    with bars("grading", is_drawn=False):
        graded, plan = grade_predictions(predictions, task=task, source=source)
        graded = with_baseline(graded, plan, shards=held_out, training=training)
        write_grades(folder / f"{stem}.json", graded, plan)
    table = grades_table(graded, plan, title=f"{task}: {held_out.path}")
    return table, f"written to {folder / stem}.json, the answers beside it"


def grade_ranking(
    chosen: ModelOnSet, *, num_images: int | None, captions_per_image: int | None, plan: RetrievalPlan
) -> tuple[Table | str, ...]:
    """Score the plan's part of a held-out set; return the grades to show, or what is left to other parts."""
    held_out = open_set(chosen.shards)
    with bars("loading the model", is_drawn=False):
        model = load_trained(chosen.checkpoint, shards=held_out, needed_heads=("match",), preset=chosen.preset)
    folder = chosen.out or results_folder(model.checkpoint)
    scored = score_retrieval(
        model, held_out, num_images=num_images, captions_per_image=captions_per_image, out=folder, plan=plan
    )
    if num_missing := scored.kept.num_missing():
        return (f"{plan.part} is scored; {num_missing} captions are left to other parts, the last of which grades",)
    report = report_retrieval(scored, plan)
    return retrieval_table(report), f"written to {report.path}, the scores beside it"


def _ending(task: AnswerTask) -> str:
    return ".csv" if task == "nlvr2" else ".json"
