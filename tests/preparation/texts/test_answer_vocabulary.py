"""Answer vocabularies follow the recipe and are read as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_json

from msp_ds.errors import InputError
from msp_ds.preparation.sources.questions import Question
from msp_ds.preparation.sources.vqa import VqaQuestion
from msp_ds.preparation.texts.answer_vocabulary import (
    AnswerVocabulary,
    build_vocabulary,
    build_vqa_vocabulary,
    read_vocabulary,
    scores_of,
    soft_scores,
)


def commonest(*answers: str | None) -> list[VqaQuestion]:
    return [
        VqaQuestion(question_id=str(number), image_ids=("coco-1",), text="?", commonest_answer=answer)
        for number, answer in enumerate(answers)
    ]


def test_an_answer_needs_nine_questions_in_any_spelling() -> None:
    questions = commonest(*["Two"] * 5, *["yes"] * 8, *["2."] * 4, *["no"] * 9, *["t-shirt"] * 9, *["a"] * 9)
    # two and 2. are one answer of nine questions, yes is one short; a is an article, of which nothing is left
    assert build_vqa_vocabulary(questions).answers == ("2", "no", "t shirt", "")


def test_without_a_commonest_answer_there_is_no_vocabulary() -> None:
    with pytest.raises(InputError, match="question 1 has no commonest answer"):
        build_vqa_vocabulary(commonest("yes", None))
    with pytest.raises(InputError, match="is empty; build it from more questions"):
        build_vqa_vocabulary(commonest("yes"))


def test_an_answer_is_worth_by_how_many_gave_it_as_it_is() -> None:
    people = ["net"] * 4 + ["Net"] * 3 + ["mesh"] * 2 + ["rope"]
    assert soft_scores(people) == {"net": 1.0, "Net": 0.9, "mesh": 0.6, "rope": 0.3}


def test_targets_leave_out_what_is_not_in_the_vocabulary() -> None:
    vocabulary = AnswerVocabulary(["mesh", "net"])
    assert vocabulary.targets({"net": 1.0, "Net": 0.9, "mesh": 0.6}) == {1: 1.0, 0: 0.6}
    assert vocabulary.targets({"rope": 0.3}) == {}


def test_the_only_answer_of_a_question_is_worth_one() -> None:
    question = Question(question_id="1", image_ids=("vg-1",), text="?", answers=("red",))
    assert scores_of(question) == {"red": 1.0}
    with pytest.raises(InputError, match="question 2 has no answer"):
        scores_of(Question(question_id="2", image_ids=("vg-1",), text="?"))


def test_gqas_vocabulary_takes_answers_as_they_are() -> None:
    questions = [
        Question(question_id=str(number), image_ids=("vg-1",), text="?", answers=(answer,))
        for number, answer in enumerate(["red", "Red", "red"])
    ]
    assert build_vocabulary(questions).answers == ("red", "Red")
    assert build_vocabulary(questions, least=2).answers == ("red",)


@pytest.mark.parametrize(
    "value", [["", "net"], {"net": 1, "": 0}, [{"ans": "", "dsets": ["vqa"]}, {"ans": "net", "dsets": ["gqa"]}]]
)
def test_the_published_forms_are_read(value: Any, tmp_path: Path) -> None:
    vocabulary = read_vocabulary(write_json(tmp_path / "answers.json", value))
    assert vocabulary.answers == ("", "net")
    assert (vocabulary.number("net"), len(vocabulary), "net" in vocabulary, "no" in vocabulary) == (1, 2, True, False)


def test_a_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    AnswerVocabulary(["a", "Ü", ""]).write(tmp_path / "answers.json")
    assert json.loads((tmp_path / "answers.json").read_text("utf-8")) == ["a", "Ü", ""]
    assert read_vocabulary(tmp_path / "answers.json").answers == ("a", "Ü", "")


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "label2ans.json").write_text(r'["yes", "caf\ud83d"]')
    with pytest.raises(InputError, match=r"label2ans.json: .* holds half a character"):
        read_vocabulary(tmp_path / "label2ans.json")


def test_an_answer_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(InputError, match="'rope' is not among the 1 answers of the answer vocabulary"):
        AnswerVocabulary(["net"]).number("rope")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ([], "is empty"),
        (["net", "net"], "holds 'net' 2 times"),
        ({"net": 0, "mesh": 2}, "number its 2 answers from 0 without gaps"),
        ({"net": "0"}, "number its 1 answers from 0"),
        ([1, 2], "should be a JSON list of answers"),
        ([{"answer": "net"}], "should be a JSON list of answers"),
        ("net", "should be a JSON list of answers"),
    ],
)
def test_other_forms_are_refused(value: Any, part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=part):
        read_vocabulary(write_json(tmp_path / "answers.json", value))
