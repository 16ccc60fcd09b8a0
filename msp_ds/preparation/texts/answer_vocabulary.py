"""The answer vocabulary of a question-answering head, and the soft scores of answers as training targets.

The recipe (docs/evaluation.md, Answer vocabulary): an answer is in the vocabulary when it is, normalised, the most
common one to at least nine questions of the training and validation splits. Targets count the annotators' *raw* answers
that are in the vocabulary: once scores .3, twice .6, three times .9, more often 1. Other answers have no target.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msp_ds.config import read_json, write_json
from msp_ds.errors import InputError
from msp_ds.preparation.sources.mentions import plain_text
from msp_ds.preparation.sources.questions import Question
from msp_ds.preparation.sources.vqa import VqaQuestion
from msp_ds.preparation.texts.answer_normalisation import normalise_answer

LEAST_QUESTIONS = 9
_SCORES = (0.0, 0.3, 0.6, 0.9)
"""Score by the number of annotators with the answer; 1 for more."""
_KNOWN_FORMS = "a JSON list of answers, an object answer -> number, or LXMERT's list of {ans, dsets}"


class AnswerVocabulary:
    """Answers by number and numbers by answer."""

    def __init__(self, answers: Sequence[str], *, name: str = "the answer vocabulary") -> None:
        self.answers = tuple(answers)
        self.name = name
        self._numbers = {answer: number for number, answer in enumerate(self.answers)}
        if not self.answers:
            raise InputError(
                f"{name} is empty; build it from more questions or set a smaller least_questions in the recipe"
            )
        if len(self._numbers) < len(self.answers):
            answer, times = Counter(self.answers).most_common(1)[0]
            raise InputError(f"{name} holds {answer!r} {times} times; each answer needs one number")

    def __len__(self) -> int:
        return len(self.answers)

    def __contains__(self, answer: object) -> bool:
        return answer in self._numbers

    def number(self, answer: str) -> int:
        """Return the number of an answer. Raises: InputError for one that is not in the vocabulary."""
        if answer not in self._numbers:
            raise InputError(f"{answer!r} is not among the {len(self)} answers of {self.name}")
        return self._numbers[answer]

    def targets(self, scores: Mapping[str, float]) -> dict[int, float]:
        """Return the scores of a question by answer number, without answers outside of the vocabulary."""
        return {self._numbers[answer]: score for answer, score in scores.items() if answer in self._numbers}

    @property
    def sha256(self) -> str:
        """Hash of the answers.json of a shard set with these answers."""
        return hashlib.sha256(answers_data(self.answers)).hexdigest()

    def write(self, path: Path) -> None:
        """Write the answers as a JSON list, like LXMERT's trainval_label2ans.json."""
        write_json(path, self.answers)


def answers_data(answers: Sequence[str]) -> bytes:
    """Return the answers.json of a shard set; its sha256 identifies the vocabulary of a fine-tuned model."""
    return json.dumps(list(answers)).encode()


def read_vocabulary(path: Path) -> AnswerVocabulary:
    """Read a vocabulary in LXMERT's layouts: label2ans, ans2label or all_ans.json.

    Raises: InputError when the file is missing or of another form, or its numbers leave gaps.
    """
    value = read_json(path, what=_KNOWN_FORMS)
    if isinstance(value, dict):
        if sorted(value.values(), key=str) != sorted(range(len(value)), key=str):
            raise InputError(f"{path} should number its {len(value)} answers from 0 without gaps")
        value = sorted(value, key=lambda answer: int(value[answer]))
    answers = [_answer(entry, where=str(path)) for entry in value] if isinstance(value, list) else [None]
    if any(answer is None for answer in answers):
        raise InputError(f"{path} should be {_KNOWN_FORMS}")
    return AnswerVocabulary([str(answer) for answer in answers], name=str(path))


def _answer(entry: Any, *, where: str) -> str | None:
    answer = entry.get("ans") if isinstance(entry, dict) else entry
    return plain_text(answer, where=where) if isinstance(answer, str) else None


def build_vqa_vocabulary(questions: Iterable[VqaQuestion], *, least: int = LEAST_QUESTIONS) -> AnswerVocabulary:
    """Build VQA's vocabulary by the recipe, in the order in which answers first appear.

    The published list of 3,129 has another order, that of a Python 2 dictionary: a head trained with one list cannot be
    used with the other.

    Raises: InputError when the questions have no commonest answer, or none occurs often enough.
    """
    counts: Counter[str] = Counter()
    for question in questions:
        if question.commonest_answer is None:
            raise InputError(
                f"question {question.question_id} has no commonest answer; "
                "build the vocabulary from the official annotations of train and val"
            )
        counts[normalise_answer(question.commonest_answer)] += 1
    return _often_enough(counts, least)


def build_vocabulary(questions: Iterable[Question], *, least: int = 1) -> AnswerVocabulary:
    """Return the unchanged answers of at least `least` questions each, as GQA does. Raises: InputError for none."""
    return _often_enough(Counter(answer for question in questions for answer in set(scores_of(question))), least)


def _often_enough(counts: Counter[str], least: int) -> AnswerVocabulary:
    return AnswerVocabulary([answer for answer, count in counts.items() if count >= least])


def soft_scores(answers: Iterable[str]) -> dict[str, float]:
    """Return the score of each raw answer: {"net": 1.0, "mesh": 0.3}."""
    return {answer: _SCORES[count] if count < len(_SCORES) else 1.0 for answer, count in Counter(answers).items()}


def scores_of(question: Question) -> Mapping[str, float]:
    """Return the score of each answer to a question: from its file, else by its annotators, or 1 for an only answer.

    Raises: InputError when the question has no answer, as in a test split.
    """
    if question.scores is not None:
        return question.scores
    if not question.answers:
        raise InputError(f"question {question.question_id} has no answer; name a split that has answers")
    return soft_scores(question.answers) if len(question.answers) > 1 else {question.answers[0]: 1.0}
