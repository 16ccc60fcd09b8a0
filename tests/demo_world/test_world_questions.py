"""The questions of a demo world are true of its boxes, colours and counts, and have the layouts of the benchmarks."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from msp_ds.demo_world.language.questions import AnsweredQuestion, annotated, questions_of, statements_of
from msp_ds.demo_world.scenes import Scene
from msp_ds.demo_world.vocabulary import BY_NAME, PEOPLE

SEED = 7
PLURALS = {category.plural: category.name for category in BY_NAME.values()}


@pytest.fixture(scope="module")
def questions(scenes: list[Scene]) -> list[tuple[Scene, AnsweredQuestion]]:
    return [(scene, question) for scene in scenes for question in questions_of(SEED, scene)]


def _names(scene: Scene) -> Counter[str]:
    return Counter(thing.category.name for thing in scene.things)


def _colours(scene: Scene, name: str) -> set[str]:
    return {thing.colour for thing in scene.things if thing.category.name == name}


def test_counts_are_counted(questions: list[tuple[Scene, AnsweredQuestion]]) -> None:
    found = [(scene, question) for scene, question in questions if question.opening == "how many"]
    assert len(found) == 300
    for scene, question in found:
        plural = re.fullmatch(r"How many (.+) are there\?", question.text)
        assert plural is not None
        assert question.answer == str(_names(scene)[PLURALS[plural[1]]])


def test_colours_are_those_of_the_only_thing_of_its_kind(questions: list[tuple[Scene, AnsweredQuestion]]) -> None:
    rest = r"(?:What color is the (.+)|Is the (.+) (\w+) or (\w+)|Is the (.+) (\w+))\?"
    attributes = [(scene, question) for scene, question in questions if question.semantic == "attr"]
    assert len(attributes) > 600
    for scene, question in attributes:
        match = re.fullmatch(rest, question.text)
        assert match is not None
        what, which, one, two, so, colour = match.groups()
        colours = _colours(scene, what or which or so)
        assert len(colours) == 1
        assert question.about not in PEOPLE
        if so:
            assert question.answer == ("yes" if colours == {colour} else "no")
        else:
            assert {question.answer} == colours
        assert not which or question.answer in (one, two)


def test_presence_is_true_and_half_of_the_answers_are_yes(questions: list[tuple[Scene, AnsweredQuestion]]) -> None:
    found = [(scene, question) for scene, question in questions if question.opening == "is there a"]
    for scene, question in found:
        assert question.answer == ("yes" if _names(scene)[question.about] else "no")
    assert 0.4 < sum(question.answer == "yes" for _, question in found) / len(found) < 0.6


def test_sides_are_seen_in_the_boxes(questions: list[tuple[Scene, AnsweredQuestion]]) -> None:
    pattern = re.compile(r"Is the (.+) to the (left|right) of the (.+)\?")
    found = [(scene, match, question) for scene, question in questions if (match := pattern.fullmatch(question.text))]
    assert len(found) > 50
    for scene, match, question in found:
        middle = {
            thing.category.name: (thing.box.x0 + thing.box.x1) / 2
            for thing in scene.things
            if thing.category.name in (match[1], match[3])
        }
        is_left = middle[match[1]] < middle[match[3]]
        assert question.answer == ("yes" if is_left == (match[2] == "left") else "no")


def test_most_annotators_give_the_true_answer(questions: list[tuple[Scene, AnsweredQuestion]]) -> None:
    shares = [Counter(annotated(SEED, scene, 0, question))[question.answer] / 10 for scene, question in questions[::7]]
    assert 0.85 < sum(shares) / len(shares) < 0.91


def test_statements_have_the_right_label(scenes: list[Scene]) -> None:
    statements = [statement for scene in scenes[64:] for statement in statements_of(SEED, scene, scenes[:64])]
    assert len(statements) > 1200
    assert 0.45 < sum(statement.true for statement in statements) / len(statements) < 0.55
    checked = 0
    for statement in statements:
        left, right = (_names(scenes[number]) for number in (statement.left, statement.right))
        if match := re.fullmatch(r"There is an? (.+) in both images\.", statement.text):
            assert statement.true == (left[match[1]] > 0 < right[match[1]])
        elif match := re.fullmatch(r"Only one image has an? (.+)\.", statement.text):
            assert statement.true == ((left[match[1]] > 0) != (right[match[1]] > 0))
        elif match := re.fullmatch(r"The left image has more (.+) than the right image\.", statement.text):
            assert statement.true == (left[PLURALS[match[1]]] > right[PLURALS[match[1]]])
        else:
            continue
        checked += 1
    assert checked > 500


def test_no_kind_of_statement_predicts_its_label(scenes: list[Scene]) -> None:
    truths = defaultdict(list)
    for scene in scenes[64:]:
        for statement in statements_of(SEED, scene, scenes[:64]):
            words = statement.text.split()
            truths[" ".join((words[0], *words[-2:]))].append(statement.true)
    kinds = {kind: some for kind, some in truths.items() if len(some) > 150}
    assert len(kinds) >= 4
    assert all(0.4 < sum(some) / len(some) < 0.6 for some in kinds.values())


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_vqa_has_ten_answers_to_every_question(world: Path) -> None:
    questions = _json(world / "vqa_questions.json")["questions"]
    annotations = _json(world / "vqa_annotations.json")["annotations"]
    assert [one["question_id"] for one in questions] == [one["question_id"] for one in annotations]
    assert [one["image_id"] for one in questions] == [one["image_id"] for one in annotations]
    assert len({one["question_id"] for one in questions}) == len(questions)
    for one in annotations:
        answers = [answer["answer"] for answer in one["answers"]]
        assert len(answers) == 10
        assert answers.count(one["multiple_choice_answer"]) == max(Counter(answers).values())


def test_gqa_entails_what_follows_from_a_colour(world: Path) -> None:
    questions = _json(world / "gqa_questions.json")
    duplicates = {str(image["image_id"]) for image in _json(world / "image_data.json")}
    assert {question["imageId"] for question in questions.values()} <= duplicates
    chains = [(question, other) for question in questions.values() for other in question["entailed"]]
    assert all(questions[other]["imageId"] == question["imageId"] for question, other in chains)
    assert any(questions[other] is not question for question, other in chains)


def test_nlvr2_names_two_different_images_of_the_world(world: Path) -> None:
    rows = {line.partition("\t")[0] for line in (world / "regions.tsv").read_text().splitlines()}
    statements = _json(world / "nlvr2.json")
    assert all({one["img0"], one["img1"]} <= rows and one["img0"] != one["img1"] for one in statements)
    assert len({one["uid"] for one in statements}) == len(statements) > 300
