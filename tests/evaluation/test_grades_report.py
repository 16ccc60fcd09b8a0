"""Prediction files are graded as by the official tools, and files that do not fit are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import refusal, run

from msp_ds.errors import InputError
from msp_ds.evaluation.grading import GradingPlan, QuestionSource, grade_file, write_grades
from msp_ds.evaluation.score_matrix import ScoreMatrix

FILE = ("evaluate", "--predictions")


@pytest.fixture
def vqa(tmp_path: Path) -> dict[str, Path]:
    """Four questions of which `ours` answers three rightly and `theirs` one."""
    people = ["yes", "no", "2", "red"]
    paths = {name: tmp_path / f"{name}.json" for name in ("questions", "annotations", "ours", "theirs")}
    numbers = range(1000, 1004)
    content = {
        "questions": {"questions": [{"question_id": one, "image_id": 1, "question": "?"} for one in numbers]},
        "annotations": {
            "annotations": [
                {"question_id": one, "answer_type": "other", "answers": [{"answer": answer}] * 10}
                for one, answer in zip(numbers, people, strict=True)
            ]
        },
        "ours": [
            {"question_id": one, "answer": answer} for one, answer in zip(numbers, [*people[:3], ""], strict=True)
        ],
        "theirs": [{"question_id": one, "answer": "yes"} for one in numbers],
    }
    for name, value in content.items():
        paths[name].write_text(json.dumps(value))
    return paths


def shown(*words: object) -> str:
    """What a command shows, on one line."""
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


def matrix(path: Path, *, left_out: int = 0) -> Path:
    owners = torch.arange(4).repeat_interleave(5)[left_out:]
    ids = tuple(f"f30k-{number}" for number in range(4))
    scores = (owners[None] == torch.arange(4)[:, None]).float()
    ScoreMatrix(scores=scores, image_ids=ids, caption_keys=torch.arange(len(owners)), image_of_caption=owners).write(
        path
    )
    return path


def test_a_vqa_submission_is_graded(vqa: dict[str, Path], tmp_path: Path) -> None:
    flags = ("--questions", vqa["questions"], "--annotations", vqa["annotations"])
    assert "75.00 %" in shown(*FILE, vqa["ours"], "--task", "vqa", *flags, "--out", tmp_path / "grades.json")
    written = json.loads((tmp_path / "grades.json").read_text())
    assert written["official"] == {"overall": 75.0, "perQuestionType": {}, "perAnswerType": {"other": 75.0}}
    assert written["grades"]["accuracy"]["percent"] == 75.0
    assert written["grades"]["accuracy"]["num"] == 4
    low, high = written["grades"]["accuracy"]["interval"]
    assert low < 75 < high


@pytest.mark.parametrize(("num_answers", "score"), [(1, 0.0), (2, 1 / 3), (3, 2 / 3), (4, 1.0)])
def test_a_note_reports_that_few_answers_limit_the_grade(vqa: dict[str, Path], num_answers: int, score: float) -> None:
    annotations = json.loads(vqa["annotations"].read_text())
    for one in annotations["annotations"][:3]:
        one["answers"] = one["answers"][:num_answers]
    vqa["annotations"].write_text(json.dumps(annotations))
    plan = GradingPlan(
        task="vqa", source=QuestionSource(questions=str(vqa["questions"]), annotations=str(vqa["annotations"]))
    )
    graded = grade_file(plan, vqa["ours"])
    assert graded.scores["accuracy"].values == (score, score, score, 0.0)
    assert graded.note.startswith("3 of 4 questions have less than 4 answers") == (num_answers < 4)


def test_two_submissions_are_compared(vqa: dict[str, Path]) -> None:
    flags = ("--questions", vqa["questions"], "--annotations", vqa["annotations"], "--against", vqa["theirs"])
    assert "+50.00" in shown(*FILE, vqa["ours"], "--task", "vqa", *flags)


def test_lxmerts_score_has_its_own_name(vqa: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text('["yes", "no"]')
    flags = (
        "--questions",
        vqa["questions"],
        "--annotations",
        vqa["annotations"],
        "--answers",
        tmp_path / "answers.json",
    )
    text = shown(*FILE, vqa["ours"], "--task", "vqa", *flags)
    assert "lookup" in text
    assert "50.00 %" in text  # 2 is outside the vocabulary
    assert "not the official accuracy" in text


def test_a_missing_answer_is_named(vqa: dict[str, Path]) -> None:
    vqa["ours"].write_text('[{"question_id": 1000, "answer": "yes"}, {"question_id": 7, "answer": "yes"}]')
    flags = ("--questions", vqa["questions"], "--annotations", vqa["annotations"])
    assert refusal(*FILE, vqa["ours"], "--task", "vqa", *flags) == (
        "the predictions cannot be graded: 3 of 4 questions have none: 1001, 1002, 1003; "
        "1 are for unknown questions: 7; predict the split that is graded"
    )


def test_the_questions_must_be_named(vqa: dict[str, Path]) -> None:
    assert refusal(*FILE, vqa["ours"], "--task", "vqa") == (
        "grading answers needs the questions; name their file with --questions FILE"
    )


def test_gqa_names_the_files_that_the_other_metrics_need(tmp_path: Path) -> None:
    (tmp_path / "questions.json").write_text(
        '{"01": {"imageId": "1", "question": "?", "answer": "red", "groups": {"global": "color"}, "entailed": ["02"],'
        '"types": {"structural": "query", "detailed": "x"}},'
        '"02": {"imageId": "1", "question": "?", "answer": "no", "isBalanced": false}}'
    )
    (tmp_path / "choices.json").write_text('{"01": {"valid": ["red"], "plausible": []}}')
    (tmp_path / "answer.json").write_text(
        '[{"questionId": "01", "prediction": "red"}, {"questionId": "02", "prediction": ""}]'
    )
    command = (
        "evaluate",
        "--predictions",
        tmp_path / "answer.json",
        "--task",
        "gqa",
        "--questions",
        tmp_path / "questions.json",
    )
    alone = shown(*command)
    assert "validity and plausibility need --choices" in alone
    assert "consistency needs --consistency" in alone
    whole = run(*command, "--choices", tmp_path / "choices.json", "--consistency").stdout
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in whole.splitlines() if "│" in line}
    assert {name: rows[name] for name in ("accuracy", "validity", "plausibility", "consistency", "distribution")} == {
        "accuracy": "100.00 %",
        "validity": "100.00 %",
        "plausibility": "0.00 %",
        "consistency": "0.00 %",
        "distribution": "0",
    }


def test_nlvr2_is_graded(tmp_path: Path) -> None:
    lines = [{"identifier": f"dev-1-{pair}-0", "sentence": ".", "label": "True"} for pair in (0, 1)]
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "answer.csv").write_text("dev-1-0-0,True\ndev-1-1-0,False\n")
    text = shown(*FILE, tmp_path / "answer.csv", "--task", "nlvr2", "--questions", tmp_path / "dev.json")
    assert "50.00 %" in text
    assert " 0.00 %" in text


def test_a_score_matrix_is_graded_by_either_protocol(tmp_path: Path) -> None:
    path = matrix(tmp_path / "scores.npz")
    text = shown(*FILE, path, "--task", "retrieval")
    assert text.count("100.00 %") == 6
    assert "standard protocol" not in text
    first = shown(*FILE, path, "--task", "retrieval", "--protocol", "first-caption")
    assert "not the standard protocol" in first


def test_an_image_with_four_captions_is_refused(tmp_path: Path) -> None:
    path = matrix(tmp_path / "scores.npz", left_out=1)
    assert refusal(*FILE, path, "--task", "retrieval").startswith("1 of 4 images do not have 5 captions: f30k-0 has 4")


def test_grades_of_a_part_of_the_questions_are_written_without_their_list(vqa: dict[str, Path], tmp_path: Path) -> None:
    source = QuestionSource(
        questions=str(vqa["questions"]), annotations=str(vqa["annotations"]), only=frozenset({"1000", "1003"})
    )
    plan = GradingPlan(task="vqa", source=source)
    part = tmp_path / "part.json"
    part.write_text(json.dumps([{"question_id": 1000, "answer": "yes"}, {"question_id": 1003, "answer": "blue"}]))
    write_grades(tmp_path / "grades.json", grade_file(plan, part), plan)
    written = json.loads((tmp_path / "grades.json").read_text())
    assert written["grades"]["accuracy"]["percent"] == 50.0
    assert written["grades"]["accuracy"]["num"] == 2
    assert written["plan"]["source"]["only"] is None


def test_predicted_questions_that_the_file_lacks_are_named(vqa: dict[str, Path]) -> None:
    source = QuestionSource(questions=str(vqa["questions"]), annotations=str(vqa["annotations"]), only=frozenset({"7"}))
    with pytest.raises(InputError, match="lacks questions that were predicted: 7"):
        grade_file(GradingPlan(task="vqa", source=source), vqa["ours"])
