"""What VQA's questions are worth without their images, beside a model's grades."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from msp_ds.data.format.set_layout import INDEX_NAME
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.downstream.vqa_grades import grade_vqa
from msp_ds.evaluation.blind_answers import blind_answers
from msp_ds.evaluation.grading import Graded, GradingPlan, QuestionSource
from msp_ds.preparation.sources.vqa import VqaQuestion, read_vqa

BASELINE = "baseline"
_WHAT = f"{BASELINE}: the commonest training answer to each question type, without the image"
_NEEDS = f"{BASELINE} needs the training questions; name them with --training-questions FILE"


def with_baseline(graded: Graded, plan: GradingPlan, *, shards: ShardSet, training: QuestionSource) -> Graded:
    """VQA's official grades with those of `blind_answers` below them, and what the model is better by.

    training: the files of the training split. Where none is named, those of the graded questions hold it too, if they
    have the questions of the set `train` beside `shards`; else the note says what is missing. Other benchmarks' grades
    come back as they are.
    """
    if plan.task != "vqa" or "accuracy" not in graded.scores:
        return graded
    every = read_vqa(plan.source.required_questions(), plan.source.annotations)
    asked = [one for one in every if plan.source.only is None or one.question_id in plan.source.only]
    known = _training_questions(every, shards, training)
    graded_ids = {one.question_id for one in asked}
    learnt = [one for one in known if one.question_id not in graded_ids]
    if not learnt:
        return dataclasses.replace(graded, note="; ".join(filter(None, (graded.note, _NEEDS))))
    blind = grade_vqa(asked, blind_answers(asked, training=learnt)).accuracy
    accuracy = graded.scores["accuracy"]
    others = {name: score for name, score in graded.scores.items() if name != "accuracy"}
    return dataclasses.replace(
        graded,
        scores={"accuracy": accuracy, BASELINE: blind, **others},
        numbers={**graded.numbers, f"accuracy - {BASELINE}": accuracy.difference(blind, plan.resampling)},
        note="; ".join(filter(None, (_WHAT, graded.note))),
    )


def _training_questions(
    every: tuple[VqaQuestion, ...], shards: ShardSet, training: QuestionSource
) -> tuple[VqaQuestion, ...]:
    if training.questions is not None:
        return read_vqa(training.questions, training.annotations)
    ids = _ids_beside(shards.path)
    return tuple(one for one in every if one.question_id in ids)


def _ids_beside(folder: Path) -> frozenset[str]:
    """The questions of the set `train` beside the set in `folder`; none where there is no such set."""
    beside = folder.parent / "train"
    questions = open_set(beside).questions if (beside / INDEX_NAME).exists() else None
    return frozenset() if questions is None else frozenset(one.decode("ascii") for one in questions.question_ids)
