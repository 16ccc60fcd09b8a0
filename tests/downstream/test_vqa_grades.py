"""VQA's grades: by hand, as the official code gave them, and as another implementation does."""

from __future__ import annotations

from pathlib import Path

import pytest
import random_benchmarks
import reference_vqa
from random_benchmarks import write_json

from msp_ds.downstream.intervals import Resampling
from msp_ds.downstream.score import Score, round_as_python_2
from msp_ds.downstream.submissions import SUBMISSIONS
from msp_ds.downstream.vqa_grades import grade_vqa, lookup_score, vqa_accuracy
from msp_ds.errors import InputError
from msp_ds.preparation.sources.vqa import VqaQuestion, read_vqa


def question(number: int = 1, *answers: str, **more: object) -> VqaQuestion:
    return VqaQuestion(question_id=str(number), image_ids=("coco-1",), text="?", answers=answers, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("same", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_an_answer_scores_by_the_number_of_annotators_who_gave_it(same: int, expected: float) -> None:
    people = ["net"] * same + [f"other {number}" for number in range(10 - same)]
    assert vqa_accuracy("net", people) == pytest.approx(expected)


def test_both_sides_are_normalised_where_people_disagree() -> None:
    assert vqa_accuracy("The Two.", ["2"] * 9 + ["three"]) == 1.0


def test_nothing_is_normalised_where_people_agree() -> None:
    assert vqa_accuracy("Two", ["two"] * 10) == 0.0
    assert vqa_accuracy(" two\n", ["two"] * 10) == 1.0  # blanks at the ends are no difference


def test_people_agree_after_their_blanks_are_stripped() -> None:
    assert vqa_accuracy("2", ["two"] * 9 + ["two "]) == 0.0


def test_grades_are_given_overall_and_by_type() -> None:
    questions = [
        question(1, *["yes"] * 10, answer_type="yes/no", question_type="is the"),
        question(2, *["2"] * 2, *["3"] * 8, answer_type="number", question_type="how many"),
        question(3, *["no"] * 9, "yes", answer_type="yes/no", question_type="is the"),
    ]
    grades = grade_vqa(questions, {"3": "yes", "2": "2", "1": "yes"})
    assert grades.official() == {
        "overall": 63.33,  # (1 + .6 + .3) / 3
        "perQuestionType": {"is the": 65.0, "how many": 60.0},
        "perAnswerType": {"yes/no": 65.0, "number": 60.0},
    }
    assert grades.lookup is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # Exact halves, which Python 3 rounds to .12, .38, .62, .88.
        (78.125, 78.13),
        (0.375, 0.38),
        (0.625, 0.63),
        (99.875, 99.88),
        (-0.125, -0.13),
        # No halves: the doubles lie below 2.675, 1.005 and 1.115, and above 0.255 (by 4e-18).
        (2.675, 2.67),
        (1.005, 1.0),
        (1.115, 1.11),
        (0.255, 0.26),
        (100.0, 100.0),
    ],
)
def test_halves_are_rounded_away_from_zero_as_in_python_2(value: float, expected: float) -> None:
    assert round_as_python_2(value, decimals=2) == expected


def test_the_official_accuracy_and_the_table_round_halves_as_the_official_tool() -> None:
    # 5 of 32 right: 15.625 %
    questions = [question(number, *["yes"] * 10, answer_type="yes/no") for number in range(32)]
    grades = grade_vqa(questions, {str(number): "yes" if number < 5 else "no" for number in range(32)})
    assert grades.official() == {"overall": 15.63, "perQuestionType": {}, "perAnswerType": {"yes/no": 15.63}}
    assert {name: score.rounded for name, score in grades.scores().items()} == {
        "accuracy": 15.63,
        "answer_type/yes/no": 15.63,
    }
    assert Score(values=(1.0,) * 5 + (0.0,) * 27).rounded == 15.62  # GQA's tool runs on Python 3


OFFICIAL = {
    "overall": 65.7,
    "perQuestionType": {
        "none of the above": 64.44,
        "what": 65.2,
        "is the": 66.24,
        "what is the": 66.68,
        "how many": 65.99,
    },
    "perAnswerType": {"other": 65.44, "yes/no": 66.24, "number": 65.99},
}
"""What the official code said of random_benchmarks.vqa(0)."""


@pytest.mark.parametrize("seed", range(5))
def test_grades_of_1000_random_answers_are_the_official_ones(seed: int, tmp_path: Path) -> None:
    questions, annotations, results = random_benchmarks.vqa(seed)
    read = read_vqa(
        write_json(tmp_path / "questions.json", questions), write_json(tmp_path / "annotations.json", annotations)
    )
    predictions = SUBMISSIONS["vqa"].read(Path(write_json(tmp_path / "results.json", results)))
    official = grade_vqa(read, predictions).official()
    assert official == reference_vqa.accuracy(annotations["annotations"], results)
    if seed == 0:
        assert official == OFFICIAL


def test_the_lookup_score_takes_the_answer_as_it_is() -> None:
    people = question(1, *["net"] * 3, *["mesh"] * 2, "Net", *["rope"] * 4)
    # as three people said net, two mesh; Net is another string, and rope is outside the vocabulary
    worth = {answer: lookup_score(answer, people, {"net", "mesh", "Net"}) for answer in ("net", "mesh", "Net", "rope")}
    assert worth == {"net": 0.9, "mesh": 0.6, "Net": 0.3, "rope": 0.0}
    assert vqa_accuracy("net", people.answers) == 1.0  # Net counts for net


def test_lxmerts_files_have_the_lookup_score_alone() -> None:
    questions = [question(1, scores={"net": 1, "mesh": 0.3}), question(2, scores={})]
    grades = grade_vqa(questions, {"1": "mesh", "2": "net"})
    assert {name: score.percent for name, score in grades.scores().items()} == {"lookup": 15.0}


@pytest.mark.parametrize(
    ("predictions", "part"),
    [
        ({"1": "yes"}, "1 of 2 questions have none: 2; predict"),
        ({"1": "yes", "2": "no", "7": "no"}, "1 are for unknown questions: 7; predict"),
        ({"8": "", "9": ""}, "2 of 2 questions have none: 1, 2; 2 are for unknown questions: 8, 9"),
    ],
)
def test_predictions_that_do_not_fit_are_named(predictions: dict[str, str], part: str) -> None:
    with pytest.raises(InputError, match=part):
        grade_vqa([question(1, "yes"), question(2, "no")], predictions)


def test_only_the_first_ids_are_named() -> None:
    with pytest.raises(InputError, match=r"9 of 9 questions have none: 0, 1, 2, 3, 4 and 4 more;"):
        grade_vqa([question(number, "yes") for number in range(9)], {})


def test_questions_without_answers_cannot_be_graded() -> None:
    with pytest.raises(InputError, match="no answers to grade by"):
        grade_vqa([question(1)], {"1": "yes"})


def test_the_interval_of_the_accuracy_is_that_of_the_mean() -> None:
    questions = [question(number, *["yes"] * 10) for number in range(400)]
    grades = grade_vqa(questions, {str(number): "yes" if number % 2 else "no" for number in range(400)})
    low, high = grades.accuracy.interval(Resampling())
    # a share of 0.5 of 400: standard error 2.5 %, 1.96 of them on each side
    assert (low, high) == (pytest.approx(45.1, abs=0.5), pytest.approx(54.9, abs=0.5))
