"""The answers of someone who sees no image: to each type of question the commonest of its kind in training.

VQA's prior per question type: what an answer is worth that only knows how the question begins.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from msp_ds.errors import InputError
from msp_ds.preparation.sources.vqa import VqaQuestion
from msp_ds.preparation.texts.answer_vocabulary import scores_of

_ANY_TYPE = ""


def blind_answers(asked: Iterable[VqaQuestion], *, training: Iterable[VqaQuestion]) -> dict[str, str]:
    """By question id the answer that most training questions of its type have, else most of all.

    Raises: InputError when no training question has an answer.
    """
    commonest = _commonest(training)
    return {one.question_id: commonest.get(one.question_type, commonest[_ANY_TYPE]) for one in asked}


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
    """The people's commonest answer; LXMERT's lists know only its score. None where no answer is known."""
    if question.commonest_answer is not None:
        return question.commonest_answer
    scores = scores_of(question)
    return _first_of_most(scores) if scores else None


def _first_of_most(counts: Mapping[str, float]) -> str:
    # Among equals the first in the alphabet: the same whatever the order of the file.
    return min(counts, key=lambda answer: (-counts[answer], answer))
