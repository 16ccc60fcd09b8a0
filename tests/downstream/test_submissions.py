"""Submission files are as the official tools read them, whole or not there, and their faults are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from msp_ds.downstream.submissions import SUBMISSIONS
from msp_ds.errors import InputError

PREDICTIONS = {
    "vqa": {"458752000": "net", "262148002": 'a "Ü"'},
    "gqa": {"00123": "red", "7": "a, b"},
    "nlvr2": {"dev-850-0-0": "True", "dev-850-1-0": "False"},
}


def test_vqas_file_has_numbers_for_questions(tmp_path: Path) -> None:
    SUBMISSIONS["vqa"].write(tmp_path / "vqa.json", PREDICTIONS["vqa"])
    assert json.loads((tmp_path / "vqa.json").read_text("utf-8")) == [
        {"question_id": 458752000, "answer": "net"},
        {"question_id": 262148002, "answer": 'a "Ü"'},
    ]


def test_gqas_file_keeps_leading_zeros(tmp_path: Path) -> None:
    SUBMISSIONS["gqa"].write(tmp_path / "gqa.json", PREDICTIONS["gqa"])
    assert json.loads((tmp_path / "gqa.json").read_text("utf-8")) == [
        {"questionId": "00123", "prediction": "red"},
        {"questionId": "7", "prediction": "a, b"},
    ]


def test_nlvr2s_file_is_lines_without_a_header(tmp_path: Path) -> None:
    SUBMISSIONS["nlvr2"].write(tmp_path / "nlvr2.csv", PREDICTIONS["nlvr2"])
    assert (tmp_path / "nlvr2.csv").read_text() == "dev-850-0-0,True\ndev-850-1-0,False\n"


@pytest.mark.parametrize("task", PREDICTIONS)
def test_what_was_written_is_read(task: str, tmp_path: Path) -> None:
    SUBMISSIONS[task].write(tmp_path / "said", PREDICTIONS[task])
    assert SUBMISSIONS[task].read(tmp_path / "said") == PREDICTIONS[task]
    assert [path.name for path in tmp_path.iterdir()] == ["said"]  # nothing unfinished beside it


@pytest.mark.parametrize("task", PREDICTIONS)
def test_a_file_in_no_folder_is_refused(task: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        SUBMISSIONS[task].write(tmp_path / "nowhere" / "said", PREDICTIONS[task])


@pytest.mark.parametrize(
    ("task", "predictions", "part"),
    [
        ("vqa", {"00123": "net"}, "VQA numbers its questions, '00123' is no such number"),
        ("vqa", {"dev-1": "net"}, "'dev-1' is no such number"),
        ("nlvr2", {"dev-1-0-0": "yes"}, "not 'yes' for 'dev-1-0-0'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    task: str, predictions: dict[str, str], part: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=part):
        SUBMISSIONS[task].write(tmp_path / "said", predictions)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "text", "part"),
    [
        ("vqa", '[{"question_id": 1, "answer": "a"}, {"question_id": 1, "answer": "a"}]', "answers 1 questions more"),
        ("vqa", '[{"question_id": "1", "answer": "a"}]', "entry 0: question_id '1' should be a number"),
        ("vqa", '[{"question_id": 1, "answer": 2}]', "entry 0: 2 is not a text"),
        ("vqa", '[{"question_id": 1}]', "entry 0: has no answer; it should be a JSON list"),
        ("vqa", "[]", "holds no prediction"),
        ("vqa", '[{"question_id": 1, "answer": "a"}', "it is cut off or damaged"),
        ("gqa", '[{"questionId": 1, "prediction": "a"}]', "entry 0: 1 is not a text"),
        (
            "gqa",
            '[{"questionId": "2", "prediction": "a"}, {"questionId": "2", "prediction": "b"}]',
            "answers 1 questions more than once: 2",
        ),
        ("nlvr2", "dev-1-0-0,True\ndev-1-0-0,False\n", "more than once: dev-1-0-0"),
        ("nlvr2", "identifier,prediction\n", "line 1: 'identifier,prediction' should be one of lines"),
        ("nlvr2", "dev-1-0-0\n", "line 1: 'dev-1-0-0' should be one of"),
        ("nlvr2", "\n", "holds no prediction"),
    ],
)
def test_files_that_cannot_be_graded_are_refused(task: str, text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_text(text)
    with pytest.raises(InputError, match=part):
        SUBMISSIONS[task].read(tmp_path / "said")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="said is missing; it should be a JSON list of"):
        SUBMISSIONS["vqa"].read(tmp_path / "said")


def test_nlvr2s_answers_are_read_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "said").write_text("dev-1-0-0,true\n\ndev-1-1-0,FALSE")
    assert SUBMISSIONS["nlvr2"].read(tmp_path / "said") == {"dev-1-0-0": "True", "dev-1-1-0": "False"}
