"""NLVR2's grades: by hand, as the official script gave them, and as another implementation does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import random_benchmarks
import reference_nlvr2

from msp_ds.downstream.nlvr2_grades import grade_nlvr2, sentence_of
from msp_ds.downstream.submissions import SUBMISSIONS
from msp_ds.errors import InputError
from msp_ds.preparation.sources.nlvr2 import read_nlvr2
from msp_ds.preparation.sources.questions import Question


def statement(identifier: str, *label: str) -> Question:
    return Question(question_id=identifier, image_ids=("nlvr2-a", "nlvr2-b"), text=".", answers=label)


def test_a_sentence_is_consistent_when_it_is_right_with_every_pair() -> None:
    statements = [
        statement("dev-1-0-0", "True"),
        statement("dev-1-2-0", "False"),  # the same sentence with another pair
        statement("dev-1-0-1", "False"),  # another sentence of the set
        statement("dev-2-0-0", "True"),
    ]
    grades = grade_nlvr2(
        statements, {"dev-1-0-0": "true", "dev-1-2-0": "True", "dev-1-0-1": "False", "dev-2-0-0": "True", "x": "True"}
    )
    assert (grades.accuracy.fraction, grades.consistency.fraction) == (0.75, pytest.approx(2 / 3))


def test_the_sentence_is_known_by_set_and_number() -> None:
    assert sentence_of("dev-850-2-1") == "dev-850--1"


@pytest.mark.parametrize("seed", range(5))
def test_grades_of_1000_random_answers_are_the_official_ones(seed: int, tmp_path: Path) -> None:
    statements, predictions = random_benchmarks.nlvr2(seed)
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, statements)))
    (tmp_path / "said.csv").write_text("\n".join(map(",".join, predictions)))
    grades = grade_nlvr2(read_nlvr2(str(tmp_path / "dev.json")), SUBMISSIONS["nlvr2"].read(tmp_path / "said.csv"))
    found = (grades.accuracy.fraction, grades.consistency.fraction)
    assert found == reference_nlvr2.grades(statements, predictions)
    if seed == 0:
        assert found == (0.748, 0.5458422174840085)  # what the official script said


def test_missing_predictions_and_labels_are_named() -> None:
    with pytest.raises(InputError, match="1 of 1 questions have none: dev-1-0-0"):
        grade_nlvr2([statement("dev-1-0-0", "True")], {"dev-1-0-1": "True"})
    with pytest.raises(InputError, match="statement dev-1-0-0 has no label"):
        grade_nlvr2([statement("dev-1-0-0")], {"dev-1-0-0": "True"})
