"""The common record of all question readers: a question or statement about one or two images, with its answers."""

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
"""Printable ASCII without space, comma and quotation mark, which JSON and CSV hold without escapes."""
IDS_SHOWN = 5
"""Ids that a message shows of a list."""


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
    """The raw answers: ten of VQA's annotators, one of GQA's, "True" or "False"; none in a test split."""
    scores: Mapping[str, float] | None = None
    """LXMERT's `label`: right answer -> score from 0 to 1, empty where none is in its vocabulary. None where the file
    has no scores: official files and test splits."""


def shown_ids(ids: list[str]) -> str:
    """Return the first few ids for a message, and how many more there are."""
    shown = ", ".join(ids[:IDS_SHOWN])
    return shown + (f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else "")


def each_once(questions: Iterator[Q], *, path: object) -> Iterator[Q]:
    """Yield the questions. Raises: InputError for a repeated id, and when there are no questions."""
    seen: set[str] = set()
    for question in questions:
        if question.question_id in seen:
            raise InputError(f"{path} has question {question.question_id} twice; keep one of them")
        seen.add(question.question_id)
        yield question
    if not seen:
        raise InputError(f"{path} holds no question")


def id_text(value: Any, *, where: str) -> str:
    """Return a question's number or name as text. Raises: InputError for ids that predictions files cannot hold."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not _ID.fullmatch(str(value)):
        raise InputError(
            f"{where}: {reprlib.repr(value)} is not a question id; that is a number, or ASCII letters, digits and "
            "marks without spaces, commas and quotation marks"
        )
    return str(value)


def number_text(value: Any, *, where: str) -> str:
    """Return the number of a question as text. Raises: InputError for an id that is not a whole number."""
    if not is_number(text := id_text(value, where=where)):
        raise InputError(f"{where}: question id {text!r} should be a whole number, since VQA numbers its questions")
    return text


def is_number(question_id: str) -> bool:
    """Whether a question id is a whole number without leading zeros."""
    return _NUMBER.fullmatch(question_id) is not None


def answer_scores(label: Any, *, where: str) -> dict[str, float]:
    """Return LXMERT's `label` as scores. Raises: InputError for anything but an object of numbers from 0 to 1."""
    if not isinstance(label, dict) or not all(
        isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1 for score in label.values()
    ):
        raise InputError(f"{where}: label {reprlib.repr(label)} should give each answer a score from 0 to 1")
    return {plain_text(answer, where=where): float(score) for answer, score in label.items()}
