"""Who sees no image answers by the question's type as training mostly did."""

from __future__ import annotations

import pytest

from msp_ds.errors import InputError
from msp_ds.evaluation.blind_answers import blind_answers
from msp_ds.preparation.sources.vqa import VqaQuestion


def question(number: int, kind: str, commonest: str | None = None, **more: object) -> VqaQuestion:
    return VqaQuestion(
        question_id=str(number),
        image_ids=("coco-1",),
        text="?",
        question_type=kind,
        commonest_answer=commonest,
        **more,  # type: ignore[arg-type]
    )


TRAINING = (
    question(1, "is the", "no"),
    question(2, "is the", "yes"),
    question(3, "is the", "no"),
    question(4, "how many", "2"),
    question(5, "what is", "dog"),
    question(6, "what is", "cat"),
)


def test_each_type_gets_its_own_commonest_answer_and_equals_the_first_in_the_alphabet() -> None:
    asked = [question(7, "is the"), question(8, "how many"), question(9, "what is")]
    assert blind_answers(asked, training=TRAINING) == {"7": "no", "8": "2", "9": "cat"}
    assert blind_answers(asked, training=TRAINING[::-1]) == {"7": "no", "8": "2", "9": "cat"}


def test_a_type_that_training_lacks_gets_the_commonest_of_all() -> None:
    assert blind_answers([question(7, "why")], training=TRAINING) == {"7": "no"}


def test_lxmerts_lists_count_the_answer_with_the_best_score() -> None:
    training = [
        question(1, "is the", scores={"yes": 0.3, "no": 1.0}),
        question(2, "is the", scores={"yes": 0.6}),
        question(3, "is the", scores={"no": 0.9}),
        question(4, "is the", scores={}),
    ]
    assert blind_answers([question(5, "is the")], training=training) == {"5": "no"}


def test_training_without_answers_is_refused() -> None:
    with pytest.raises(InputError, match="no training question has an answer"):
        blind_answers([question(1, "why")], training=[question(2, "why", scores={})])
