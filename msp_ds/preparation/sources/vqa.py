"""VQA v2: the official files of questions and of annotations, or LXMERT's list that joins them.

Official: {questions: [{image_id, question, question_id}]} and {annotations: [{question_id, image_id, question_type,
answer_type, multiple_choice_answer, answers: [{answer, answer_confidence, answer_id}]}]}. LXMERT: a list of {img_id,
sent, question_id, label, question_type, answer_type}; its test split has no label.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, iterate_items, require_mapping
from msp_ds.preparation.sources.mentions import TextReference, parse_reference, plain_text, squeezed
from msp_ds.preparation.sources.questions import Question, answer_scores, each_once, number_text, shown_ids

_QUESTIONS = "VQA's questions, or LXMERT's list of img_id, sent and label"
_ANNOTATIONS = "VQA's annotations"


@dataclass(frozen=True, kw_only=True, slots=True)
class VqaQuestion(Question):
    """A question of VQA v2."""

    commonest_answer: str | None = None
    """`multiple_choice_answer`; None where the file has none."""
    question_type: str = ""
    """The first words: `what color is the`; empty where the file has none."""
    answer_type: str = ""
    """`yes/no`, `number` or `other`; empty where the file has none."""


def read_vqa(questions: str, annotations: str | None = None) -> tuple[VqaQuestion, ...]:
    """Read the questions of a file, with the answers of `annotations` and in its order where it is named.

    Raises: InputError when a file is missing, damaged or of another layout, has a question twice, or when the two
    files differ in their questions or images.
    """
    by_id = {question.question_id: question for question in each_once(_questions(questions), path=questions)}
    if annotations is None:
        return tuple(by_id.values())
    answered = {found.question_id: found for found in each_once(_annotations(annotations, by_id), path=annotations)}
    if bare := [question_id for question_id in by_id if question_id not in answered]:
        raise InputError(
            f"{annotations} has no answers to {len(bare)} of {len(by_id)} questions of {questions}: {shown_ids(bare)}; "
            "name the annotations of the same split"
        )
    return tuple(answered.values())


def _questions(written: str) -> Iterator[VqaQuestion]:
    file = parse_reference(written)
    for item in iterate_items(file.path, what=_QUESTIONS):
        if item.member == "questions":
            yield _official(item, file)
        elif item.member == "":
            yield _lxmert(item, file)
        elif item.member == "annotations":
            raise InputError(f"{written} holds annotations; name the file of questions first, this one as annotations")


def _official(item: Item, file: TextReference) -> VqaQuestion:
    entry = require_mapping(item, "question_id", "image_id", "question", what=_QUESTIONS)
    return VqaQuestion(
        question_id=number_text(entry["question_id"], where=item.where),
        image_ids=(file.canonical(entry["image_id"], default="coco", where=item.where),),
        text=squeezed(entry["question"], where=item.where),
    )


def _lxmert(item: Item, file: TextReference) -> VqaQuestion:
    entry = require_mapping(item, "question_id", "img_id", "sent", what=_QUESTIONS)
    return VqaQuestion(
        question_id=number_text(entry["question_id"], where=item.where),
        image_ids=(file.canonical(entry["img_id"], default="coco", where=item.where),),
        text=squeezed(entry["sent"], where=item.where),
        scores=answer_scores(entry["label"], where=item.where) if "label" in entry else None,
        question_type=squeezed(entry.get("question_type"), where=item.where),
        answer_type=squeezed(entry.get("answer_type"), where=item.where),
    )


def _annotations(written: str, by_id: dict[str, VqaQuestion]) -> Iterator[VqaQuestion]:
    """Yield the questions with the answers of a file, in its order."""
    file = parse_reference(written)
    for item in iterate_items(file.path, what=_ANNOTATIONS):
        if item.member == "annotations":
            entry = require_mapping(item, "question_id", "answers", what=_ANNOTATIONS)
            question = by_id.get(number_text(entry["question_id"], where=item.where))
            if question is None:
                raise InputError(f"{item.where}: question {entry['question_id']} is not among the questions")
            _require_image(entry, question, item, file)
            commonest = entry.get("multiple_choice_answer")
            yield replace(
                question,
                answers=_answers(entry["answers"], where=item.where),
                commonest_answer=None if commonest is None else plain_text(commonest, where=item.where),
                question_type=plain_text(entry.get("question_type", ""), where=item.where),
                answer_type=plain_text(entry.get("answer_type", ""), where=item.where),
            )


def _require_image(entry: dict[str, Any], question: VqaQuestion, item: Item, file: TextReference) -> None:
    if "image_id" in entry:
        image_id = file.canonical(entry["image_id"], default="coco", where=item.where)
        if (image_id,) != question.image_ids:
            raise InputError(
                f"{item.where}: question {question.question_id} is about {question.image_ids[0]}, not about {image_id}"
            )


def _answers(answers: Any, *, where: str) -> tuple[str, ...]:
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(one, dict) and "answer" in one for one in answers)
    ):
        raise InputError(f"{where}: answers should be a list of objects with 'answer'; it should be {_ANNOTATIONS}")
    return tuple(plain_text(one["answer"], where=where) for one in answers)
