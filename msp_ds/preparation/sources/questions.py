"""What every reader of questions gives: one question, or statement, about one image or two, with its right answers."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from msp_ds.errors import InputError
from msp_ds.preparation.sources.mentions import plain_text

Q = TypeVar("Q", bound="Question")

_NUMBER = re.compile(r"0|[1-9][0-9]{0,199}")
_ID = re.compile(r"[!#-+\--~]{1,200}")
"""Printable ASCII but space, comma and quotation mark: what JSON and CSV hold alike."""
IDS_SHOWN = 5
"""Of a list of ids in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of a benchmark."""

    question_id: str
    """As its file writes it: `458752000`, `00123` with its leading zeros, `dev-850-0-0`."""
    image_ids: tuple[str, ...]
    """Canonical; NLVR2 has two, the left one first."""
    text: str
    """White space squeezed."""
    answers: tuple[str, ...] = ()
    """As they were given: ten of VQA's annotators, one of GQA's, "True" or "False"; none in a test split."""
    scores: Mapping[str, float] | None = None
    """LXMERT's `label`, what each right answer earns, from 0 to 1; empty where none is in its vocabulary. None where
    the file has no such thing: official files and test splits."""


def shown_ids(ids: list[str]) -> str:
    """The first few ids for a message, and how many more."""
    shown = ", ".join(ids[:IDS_SHOWN])
    return shown + (f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else "")


def each_once(questions: Iterator[Q], *, path: object) -> Iterator[Q]:
    """The questions as they come. Raises: InputError for an id that came before, and when there is none at all."""
    seen: set[str] = set()
    for question in questions:
        if question.question_id in seen:
            raise InputError(f"{path} has question {question.question_id} twice; keep one of them")
        seen.add(question.question_id)
        yield question
    if not seen:
        raise InputError(f"{path} holds no question")


def id_text(value: Any, *, where: str) -> str:
    """A question's number or name as text.

    Raises: InputError for what is neither, and for what a file of predictions cannot hold.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not _ID.fullmatch(str(value)):
        raise InputError(
            f"{where}: {reprlib.repr(value)} is no question id; that is a number, or ASCII letters, digits and marks "
            "without spaces, commas and quotation marks"
        )
    return str(value)


def number_text(value: Any, *, where: str) -> str:
    """The number of a question as text, for benchmarks that number theirs. Raises: InputError for anything else."""
    if not is_number(text := id_text(value, where=where)):
        raise InputError(f"{where}: question id {text!r} should be a whole number, since VQA numbers its questions")
    return text


def is_number(question_id: str) -> bool:
    """Whether a question id is a whole number, written as numbers are."""
    return _NUMBER.fullmatch(question_id) is not None


def answer_scores(label: Any, *, where: str) -> dict[str, float]:
    """LXMERT's `label` as scores. Raises: InputError for anything but an object of numbers from 0 to 1."""
    if not isinstance(label, dict) or not all(
        isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1 for score in label.values()
    ):
        raise InputError(f"{where}: label {reprlib.repr(label)} should give each answer a score from 0 to 1")
    return {plain_text(answer, where=where): float(score) for answer, score in label.items()}
