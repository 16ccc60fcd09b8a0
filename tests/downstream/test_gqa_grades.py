"""GQA's grades: by hand, as the official script gave them, and as another implementation does."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import random_benchmarks
import reference_gqa
from random_benchmarks import write_json

from msp_ds.downstream.gqa_distribution import GroupedAnswer, distribution, resampled_distribution
from msp_ds.downstream.gqa_grades import grade_gqa
from msp_ds.downstream.intervals import Resampling
from msp_ds.downstream.submissions import SUBMISSIONS
from msp_ds.errors import InputError
from msp_ds.preparation.sources.gqa import GqaChoices, GqaQuestion, read_gqa, read_gqa_choices


def question(number: str, answer: str, **more: Any) -> GqaQuestion:
    fields = {"structural": "query", "semantic": "rel", "detailed": "relS", **more}
    return GqaQuestion(question_id=number, image_ids=("vg-1",), text="What is it?", answers=(answer,), **fields)


QUESTIONS = [
    question("01", "red", entailed=("01", "02", "03"), global_group="color", num_steps=2),
    question("02", "yes", structural="verify", entailed=("01",)),
    question("03", "no", structural="verify", is_balanced=False),
    question("04", "blue", entailed=("03",), detailed="twoCommon", global_group="color", num_steps=1),
]
SAID = {"01": "red", "02": "no", "03": "no", "04": "color"}


def test_grades_are_those_worked_by_hand() -> None:
    choices = [GqaChoices(one, frozenset({"red", "blue", "yes"}), frozenset({"red"})) for one in ("01", "02")]
    grades = grade_gqa(QUESTIONS, SAID, choices=choices, with_consistency=True)
    assert {name: score.percent for name, score in grades.scores().items()} == {
        "accuracy": pytest.approx(100 / 3),  # 01 of 01, 02, 04
        "binary": 0.0,
        "open": 50.0,
        "validity": pytest.approx(200 / 3),  # red; color, since 04 asks for something in common
        "plausibility": pytest.approx(200 / 3),
        "consistency": 50.0,  # 01 is right: 02 is not, 03 is; its own number does not count
        "structure/query": 50.0,
        "structure/verify": 0.0,
        "semantics/rel": pytest.approx(100 / 3),
        "steps/0": 0.0,
        "steps/1": 0.0,
        "steps/2": 100.0,
        "words/3": pytest.approx(100 / 3),
    }
    # right: red, blue once each; given: red, color: (1 - 1)^2 / 1 + (0 - 1)^2 / 1 over one group
    assert grades.distribution == 0.01


def test_what_cannot_be_graded_is_none_and_not_zero() -> None:
    grades = grade_gqa(QUESTIONS, SAID)
    assert (grades.validity, grades.plausibility, grades.consistency) == (None, None, None)
    assert math.isnan(grade_gqa([question("1", "red")], {"1": "red"}).distribution)


def test_consistency_alone_needs_the_unbalanced_questions() -> None:
    balanced_only = {question_id: answer for question_id, answer in SAID.items() if question_id != "03"}
    assert grade_gqa(QUESTIONS, balanced_only).accuracy.num == 3
    with pytest.raises(InputError, match="1 of 4 questions have none: 03"):
        grade_gqa(QUESTIONS, balanced_only, with_consistency=True)


def test_lxmerts_files_have_the_accuracy_alone(tmp_path: Path) -> None:
    rows = [
        {"question_id": "05", "img_id": "n7", "sent": "What color?", "label": {"red": 1.0}},
        {"question_id": "6", "img_id": "7", "sent": "Is it?", "label": {"no": 1.0}},
    ]
    grades = grade_gqa(read_gqa(write_json(tmp_path / "testdev.json", rows)), {"05": "red", "6": "yes"})
    found = {name: score.percent for name, score in grades.scores().items()}
    assert found == {"accuracy": 50.0, "words/2": 50.0}


OFFICIAL = {
    "accuracy": 59.07590759075908,
    "binary": 57.23270440251572,
    "open": 61.111111111111114,
    "validity": 44.224422442244226,
    "plausibility": 36.303630363036305,
    "consistency": 55.658056580565805,
    "distribution": 0.050420364455315836,
}
"""What the official script prediction_of of random_benchmarks.gqa(0)."""


@pytest.mark.parametrize("seed", range(5))
def test_grades_of_1000_random_answers_are_the_official_ones(seed: int, tmp_path: Path) -> None:
    questions, choices, rows = random_benchmarks.gqa(seed)
    predictions = SUBMISSIONS["gqa"].read(Path(write_json(tmp_path / "predictions.json", rows)))
    grades = grade_gqa(
        read_gqa(write_json(tmp_path / "questions.json", questions)),
        predictions,
        choices=read_gqa_choices(write_json(tmp_path / "choices.json", choices)),
        with_consistency=True,
    )
    found = {**{name: score.percent for name, score in grades.scores().items()}, "distribution": grades.distribution}
    assert found == reference_gqa.grades(questions, choices, rows)
    if seed == 0:
        assert {name: found[name] for name in OFFICIAL} == pytest.approx(OFFICIAL, rel=1e-14)  # last bit: Python 3.12


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"choices": [GqaChoices("01", frozenset(), frozenset())]}, "choices file does not list 1 of 3 questions: 02"),
        ({"questions": QUESTIONS[2:3]}, "none of the questions is balanced"),
        ({"questions": QUESTIONS[:2], "with_consistency": True}, "does not hold 1 of 2 questions: 03"),
        ({"predictions": {"01": "red"}}, "2 of 3 questions have none: 02, 04"),
        ({"questions": [GqaQuestion(question_id="1", image_ids=("vg-1",), text="?")]}, "question 1 has no answer"),
    ],
)
def test_what_cannot_be_graded_is_named(changes: dict[str, Any], part: str) -> None:
    arguments = {"questions": QUESTIONS, "predictions": SAID, **changes}
    with pytest.raises(InputError, match=part):
        grade_gqa(arguments.pop("questions"), arguments.pop("predictions"), **arguments)


def test_the_distribution_is_nought_for_right_answers_in_any_order() -> None:
    outcomes = [
        GroupedAnswer("color", "red", "blue"),
        GroupedAnswer("color", "blue", "red"),
        GroupedAnswer("thing", "dog", "dog"),
    ]
    assert distribution(outcomes) == 0.0


def test_the_distribution_weighs_groups_by_their_questions() -> None:
    # color: red 2 right, 0 given: 4 / 2 = 2; thing: dog 1 right, 1 given: 0; (2 * 2 + 0 * 1) / 3 / 100
    outcomes = [
        GroupedAnswer("color", "red", "sky"),
        GroupedAnswer("color", "red", "sky"),
        GroupedAnswer("thing", "dog", "dog"),
    ]
    assert distribution(outcomes) == pytest.approx(4 / 300)


def test_the_distributions_interval_is_that_of_resampling_in_a_loop() -> None:
    questions, _, rows = random_benchmarks.gqa(3, num=300)
    prediction_of = {row["questionId"]: row["prediction"] for row in rows}
    outcomes = [
        GroupedAnswer(one["groups"]["global"], one["answer"], prediction_of[question_id])
        for question_id, one in questions.items()
        if one["groups"]["global"]
    ]
    rng = random.Random(0)
    found = sorted(distribution([rng.choice(outcomes) for _ in outcomes]) for _ in range(2000))
    shift = distribution(outcomes) - sum(found) / len(found)
    grades = grade_gqa(
        [question(str(number), one.right, global_group=one.group) for number, one in enumerate(outcomes)],
        {str(number): one.predicted for number, one in enumerate(outcomes)},
    )
    low, high = resampled_distribution(grades.outcomes, Resampling())
    assert shift < 0  # chance on top of chance
    assert low == pytest.approx(found[50] + shift, rel=0.15)
    assert high == pytest.approx(found[1949] + shift, rel=0.1)
