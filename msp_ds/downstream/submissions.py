"""The official submission files: written whole or not at all, and read with every doubtful id named.

VQA: a JSON list of {question_id: number, answer}. GQA: a JSON list of {questionId, prediction}, leading zeros kept.
NLVR2: lines `identifier,True` without a header. Retrieval has no official file; its score matrix is kept as .npz.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msp_ds.downstream.predictions import collect
from msp_ds.errors import InputError, writing
from msp_ds.preparation.parsing.json_stream import iterate_items, readable, require_mapping
from msp_ds.preparation.sources.mentions import plain_text
from msp_ds.preparation.sources.questions import is_number
from msp_ds.storage.atomic_files import write_atomically

_STATEMENT_ANSWERS = {"true": "True", "false": "False"}


@dataclass(frozen=True, kw_only=True)
class SubmissionFormat:
    """How a benchmark's server wants its predictions."""

    name: str  # as in `it should be NAME`
    write: Callable[[Path, Mapping[str, str]], None]
    """Write predictions by question id; what was there is replaced in one step. Raises: InputError for an id or an
    answer that the format cannot hold, and when the file cannot be written."""
    read: Callable[[Path], dict[str, str]]
    """Read them back. Raises: InputError for a file that is missing, damaged or repeats an id."""


def _write(path: Path, text: str) -> None:
    with writing(path, fix="name another file"):
        write_atomically(path, text.encode())


def _json_list(rows: Iterator[dict[str, object]]) -> str:
    """One row a line, so that two files can be compared by eye."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


_VQA = "a JSON list of {question_id: number, answer: text}"


def _write_vqa(path: Path, predictions: Mapping[str, str]) -> None:
    for question_id in predictions:
        if not is_number(question_id):
            raise InputError(f"VQA numbers its questions, {question_id!r} is no such number")
    _write(path, _json_list({"question_id": int(one), "answer": answer} for one, answer in predictions.items()))


def _read_vqa(path: Path) -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        for item in iterate_items(path, what=_VQA):
            row = require_mapping(item, "question_id", "answer", what=_VQA)
            number = row["question_id"]
            # The official tool looks ids up as they are: a number in quotation marks is unknown to it.
            if isinstance(number, bool) or not isinstance(number, int):
                raise InputError(f"{item.where}: question_id {number!r} should be a number; it should be {_VQA}")
            yield str(number), plain_text(row["answer"], where=item.where)

    return collect(pairs(), path=path)


_GQA = "a JSON list of {questionId: text, prediction: text}"


def _write_gqa(path: Path, predictions: Mapping[str, str]) -> None:
    _write(path, _json_list({"questionId": one, "prediction": answer} for one, answer in predictions.items()))


def _read_gqa(path: Path) -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        for item in iterate_items(path, what=_GQA):
            row = require_mapping(item, "questionId", "prediction", what=_GQA)
            yield plain_text(row["questionId"], where=item.where), plain_text(row["prediction"], where=item.where)

    return collect(pairs(), path=path)


_NLVR2 = "lines of identifier,True or identifier,False"


def _write_nlvr2(path: Path, predictions: Mapping[str, str]) -> None:
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    for identifier, answer in predictions.items():
        if answer not in _STATEMENT_ANSWERS.values() or "," in identifier:
            raise InputError(f"NLVR2 takes True or False for an identifier, not {answer!r} for {identifier!r}")
        rows.writerow((identifier, answer))
    _write(path, lines.getvalue())


def _read_nlvr2(path: Path) -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        with readable(path, what=_NLVR2) as lines:
            for number, line in enumerate(lines, start=1):
                identifier, _, answer = line.strip().partition(",")
                if not identifier and not answer:
                    continue
                if answer.lower() not in _STATEMENT_ANSWERS:
                    raise InputError(f"{path} line {number}: {line.strip()!r} should be one of {_NLVR2}")
                yield identifier, _STATEMENT_ANSWERS[answer.lower()]

    return collect(pairs(), path=path)


SUBMISSIONS: dict[str, SubmissionFormat] = {
    "vqa": SubmissionFormat(name=_VQA, write=_write_vqa, read=_read_vqa),
    "gqa": SubmissionFormat(name=_GQA, write=_write_gqa, read=_read_gqa),
    "nlvr2": SubmissionFormat(name=_NLVR2, write=_write_nlvr2, read=_read_nlvr2),
}
