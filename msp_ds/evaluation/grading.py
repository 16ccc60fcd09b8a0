"""Grades of a prediction file of any benchmark: by the official rules, with intervals, alone or beside another file."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from msp_ds.config import write_json
from msp_ds.curriculum import BenchmarkName
from msp_ds.downstream.gqa_distribution import resampled_distribution
from msp_ds.downstream.gqa_grades import grade_gqa
from msp_ds.downstream.intervals import Interval, Resampling
from msp_ds.downstream.nlvr2_grades import grade_nlvr2
from msp_ds.downstream.retrieval_grades import (
    RetrievalProtocol,
    direction_ranks,
    grade_retrieval,
    rank_intervals,
    recall_scores,
    require_captions,
)
from msp_ds.downstream.score import Score
from msp_ds.downstream.submissions import SUBMISSIONS
from msp_ds.downstream.vqa_grades import FULL_SCORE_ANSWERS, VqaGrades, grade_vqa
from msp_ds.errors import InputError, writing
from msp_ds.evaluation.score_matrix import read_score_matrix
from msp_ds.preparation.sources.gqa import read_gqa, read_gqa_choices
from msp_ds.preparation.sources.nlvr2 import read_nlvr2
from msp_ds.preparation.sources.questions import Q, shown_ids
from msp_ds.preparation.sources.vqa import VqaQuestion, read_vqa
from msp_ds.preparation.texts.answer_vocabulary import read_vocabulary
from msp_ds.terminal import Table


@dataclass(frozen=True, kw_only=True)
class QuestionSource:
    """The official files of a benchmark: its questions and their right answers."""

    questions: str | None = None
    """The official file of questions or statements, or LXMERT's; for GQA also a folder of them."""
    annotations: str | None = None  # file of VQA's answers, if it is separate
    choices: str | None = None  # file of GQA's choices, for validity and plausibility
    only: frozenset[str] | None = None  # ids of the questions to grade; None for all of the file
    answers: Path | None = None  # answer vocabulary, for LXMERT's look-up score on VQA's official files

    def required_questions(self) -> str:
        """Return the file of questions. Raises: InputError when none is named."""
        if self.questions is None:
            raise InputError("grading answers needs the questions; name their file with --questions FILE")
        return self.questions

    def selected(self, questions: Iterable[Q]) -> Iterator[Q]:
        """Yield the questions to grade. Raises: InputError when `only` names others than the file holds."""
        missing = set(self.only or ())
        for question in questions:
            missing.discard(question.question_id)
            if self.only is None or question.question_id in self.only:
                yield question
        if missing:
            raise InputError(f"{self.questions} lacks questions that were predicted: {shown_ids(sorted(missing))}")


@dataclass(frozen=True, kw_only=True)
class GradingPlan:
    """The rules of grading."""

    task: BenchmarkName
    source: QuestionSource = field(default_factory=QuestionSource)
    consistency: bool = False
    """Whether to compute GQA's consistency, which needs predictions for unbalanced questions too."""
    protocol: RetrievalProtocol = "standard"
    captions_per_image: int = 5  # number of captions that each image of a retrieval score matrix must have
    resampling: Resampling = field(default_factory=Resampling)


@dataclass(frozen=True, kw_only=True)
class Graded:
    """The grades of one prediction file."""

    scores: dict[str, Score]  # name to grade in percent
    numbers: dict[str, tuple[float, Interval]] = field(default_factory=dict)
    """Grades that are not percentages, each with its interval: ranks, GQA's distribution."""
    official: dict[str, Any] = field(default_factory=dict)  # contents of the results file of the official tool
    note: str = ""


def _grade_vqa(plan: GradingPlan, predictions: Path) -> Graded:
    vocabulary = None if plan.source.answers is None else read_vocabulary(plan.source.answers)
    questions = tuple(plan.source.selected(read_vqa(plan.source.required_questions(), plan.source.annotations)))
    grades = grade_vqa(questions, SUBMISSIONS["vqa"].read(predictions), vocabulary=vocabulary)
    return Graded(
        scores=grades.scores(),
        official=grades.official() if grades.accuracy.num else {},
        note="; ".join(_vqa_notes(questions, grades)),
    )


def _vqa_notes(questions: Sequence[VqaQuestion], grades: VqaGrades) -> Iterator[str]:
    if grades.lookup:
        yield "lookup is LXMERT's local score, not the official accuracy"
    few = sum(1 <= len(question.answers) < FULL_SCORE_ANSWERS for question in questions)
    if few and grades.accuracy.num:
        yield (
            f"{few} of {len(questions)} questions have less than {FULL_SCORE_ANSWERS} answers: the official rule, made "
            "for ten, gives at most 0 for a question with one answer, 1/3 with two, 2/3 with three"
        )


def _grade_gqa(plan: GradingPlan, predictions: Path) -> Graded:
    grades = grade_gqa(
        plan.source.selected(read_gqa(plan.source.required_questions())),
        SUBMISSIONS["gqa"].read(predictions),
        choices=None if plan.source.choices is None else read_gqa_choices(plan.source.choices),
        with_consistency=plan.consistency,
    )
    distribution = (grades.distribution, resampled_distribution(grades.outcomes, plan.resampling))
    notes = ["distribution: lower is better"] * bool(grades.outcomes)
    notes += ["validity and plausibility need --choices FILE"] * (grades.validity is None)
    notes += ["consistency needs --consistency and predictions for all questions"] * (grades.consistency is None)
    return Graded(
        scores=grades.scores(),
        numbers={"distribution": distribution} if grades.outcomes else {},
        note="; ".join(notes),
    )


def _grade_nlvr2(plan: GradingPlan, predictions: Path) -> Graded:
    statements = tuple(plan.source.selected(read_nlvr2(plan.source.required_questions())))
    grades = grade_nlvr2(statements, SUBMISSIONS["nlvr2"].read(predictions))
    official = {"precision": grades.accuracy.fraction, "consistency": grades.consistency.fraction}
    return Graded(scores=grades.scores(), official=official)


def _grade_retrieval(plan: GradingPlan, predictions: Path) -> Graded:
    matrix = read_score_matrix(predictions)
    owners, num_images = matrix.image_of_caption, len(matrix.image_ids)
    require_captions(owners, num_images=num_images, each=plan.captions_per_image, image_ids=matrix.image_ids)
    flat = grade_retrieval(matrix.scores, owners, protocol=plan.protocol).flat()
    image_ranks, caption_ranks = direction_ranks(matrix.scores, owners, protocol=plan.protocol)
    scores: dict[str, Score] = {}
    numbers: dict[str, tuple[float, Interval]] = {}
    for direction, ranks, units in (("ir", image_ranks, owners), ("tr", caption_ranks, torch.arange(num_images))):
        scores |= {f"{direction}/{name}": score for name, score in recall_scores(ranks, units).items()}
        for name, interval in rank_intervals(ranks, units, plan.resampling).items():
            numbers[f"{direction}/{name}"] = (flat[f"{direction}/{name}"], interval)
    note = "ir: image for a caption, tr: caption for an image; ties against us"
    if plan.protocol == "first-caption":
        note += "; tr ranks only the first caption of each image, as the released code does: not the standard protocol"
    return Graded(scores=scores, numbers=numbers, note=note)


GRADERS: dict[BenchmarkName, Callable[[GradingPlan, Path], Graded]] = {
    "vqa": _grade_vqa,
    "gqa": _grade_gqa,
    "nlvr2": _grade_nlvr2,
    "retrieval": _grade_retrieval,
}


def grade_file(plan: GradingPlan, predictions: Path) -> Graded:
    """Grade a submission file, or a retrieval score matrix.

    Raises: InputError for files that are missing, damaged or do not fit each other, naming the ids.
    """
    return GRADERS[plan.task](plan, predictions)


def grade_and_compare(plan: GradingPlan, predictions: Path, *, against: Path | None, out: Path | None) -> Table:
    """Return the grades of a file as a table, beside those of another file; write them to the JSON file `out`.

    Raises: InputError as grade_file and write_grades do.
    """
    graded = grade_file(plan, predictions)
    other = None if against is None else grade_file(plan, against)
    if out is not None:
        write_grades(out, graded, plan)
    return grades_table(graded, plan, title=f"{plan.task}: {predictions.name}", other=other)


def write_grades(path: Path, graded: Graded, plan: GradingPlan) -> None:
    """Write the grades as JSON. Raises: InputError when the file cannot be written."""
    rows = {
        name: {"percent": score.percent, "interval": score.interval(plan.resampling), "num": score.num}
        for name, score in graded.scores.items()
    }
    others = {name: {"value": value, "interval": interval} for name, (value, interval) in graded.numbers.items()}
    # The ids stand in the prediction file already; here they would be most of the file.
    shown_plan = dataclasses.replace(plan, source=dataclasses.replace(plan.source, only=None))
    with writing(path, fix="name another --out"):
        write_json(
            path, {"plan": shown_plan, "grades": {**rows, **others}, "official": graded.official, "note": graded.note}
        )


def grades_table(graded: Graded, plan: GradingPlan, *, title: str, other: Graded | None = None) -> Table:
    """Return the grades with 95 % intervals, and their paired differences from another file's grades."""
    table = Table(title=title, caption=graded.note or None)
    table.add_column()
    for column in ("grade", "95 %", *(("of",) if other is None else ("against", "difference"))):
        table.add_column(column, justify="right")
    for name, score in graded.scores.items():
        low, high = score.interval(plan.resampling)
        last = [str(score.num)] if other is None else _compared(score, other.scores.get(name), plan.resampling)
        table.add_row(name, f"{score.rounded:.2f} %", f"{low:.1f} - {high:.1f}", *last)
    for name, (value, (low, high)) in graded.numbers.items():
        last = [f"{other.numbers[name][0]:.4g}"] if other is not None and name in other.numbers else []
        table.add_row(name, f"{value:.4g}", f"{low:.3g} - {high:.3g}", *last)
    return table


def _compared(score: Score, other: Score | None, resampling: Resampling) -> list[str]:
    if other is None:
        return ["", ""]
    if not score.is_paired:
        return [f"{other.rounded:.2f} %", "not paired"]
    difference, (low, high) = score.difference(other, resampling)
    return [f"{other.rounded:.2f} %", f"{difference:+.2f} ({low:+.1f}, {high:+.1f})"]
