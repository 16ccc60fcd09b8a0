"""Baseline of VQA without images: the most frequent training answer to each type of question (VQA's prior per type)."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from msp_ds.data.format.set_layout import INDEX_NAME
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.downstream.vqa_grades import grade_vqa
from msp_ds.errors import InputError
from msp_ds.evaluation.grading import Graded, GradingPlan, QuestionSource
from msp_ds.preparation.sources.vqa import VqaQuestion, read_vqa
from msp_ds.preparation.texts.answer_vocabulary import scores_of

BASELINE = "baseline"
_WHAT = f"{BASELINE}: the commonest training answer to each question type, without the image"
_NEEDS = f"{BASELINE} needs the training questions; name them with --training-questions FILE"
_ANY_TYPE = ""


def with_baseline(graded: Graded, plan: GradingPlan, *, shards: ShardSet, training: QuestionSource) -> Graded:
    """Add the grades of `blind_answers` to VQA's official grades, with the model's lead over them.

    training: the files of the training split. Without them the graded files serve, if they hold the questions of the
    set `train` beside `shards`; else the note says what is missing. Other benchmarks get no baseline.
    """
    if plan.task != "vqa" or "accuracy" not in graded.scores:
        return graded
    every = read_vqa(plan.source.required_questions(), plan.source.annotations)
    graded_questions = [one for one in every if plan.source.only is None or one.question_id in plan.source.only]
    known = _training_questions(every, shards, training)
    graded_ids = {one.question_id for one in graded_questions}
    learnt = [one for one in known if one.question_id not in graded_ids]
    if not learnt:
        return dataclasses.replace(graded, note="; ".join(filter(None, (graded.note, _NEEDS))))
    blind = grade_vqa(graded_questions, blind_answers(graded_questions, training=learnt)).accuracy
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
    beside = shards.path.parent / "train"
    questions = open_set(beside).questions if (beside / INDEX_NAME).exists() else None
    ids = () if questions is None else {one.decode("ascii") for one in questions.question_ids}
    return tuple(one for one in every if one.question_id in ids)


def blind_answers(questions: Iterable[VqaQuestion], *, training: Iterable[VqaQuestion]) -> dict[str, str]:
    """Return by question id the most frequent training answer to questions of its type, else to all questions.

    Raises: InputError when no training question has an answer.
    """
    commonest = _commonest(training)
    return {one.question_id: commonest.get(one.question_type, commonest[_ANY_TYPE]) for one in questions}


def _commonest(training: Iterable[VqaQuestion]) -> dict[str, str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in training:
        if (answer := _answer(question)) is not None:
            for name in {question.question_type, _ANY_TYPE}:
                counts[name][answer] += 1
    if not counts:
        raise InputError("no training question has an answer; name questions and annotations of a split that has them")
    return {name: _first_of_most(some) for name, some in counts.items()}


def _answer(question: VqaQuestion) -> str | None:
    """The annotators' most frequent answer, else the best-scored one (LXMERT's lists hold only scores)."""
    if question.commonest_answer is not None:
        return question.commonest_answer
    scores = scores_of(question)
    return _first_of_most(scores) if scores else None


def _first_of_most(counts: Mapping[str, float]) -> str:
    # Ties go to the first in the alphabet, so that the order of the file does not matter.
    return min(counts, key=lambda answer: (-counts[answer], answer))
