"""GQA: the official files of questions by number, whole or a folder of parts, of choices, and LXMERT's list.

Official: {number: {question, imageId, answer, isBalanced, groups: {global}, entailed, types: {structural, semantic,
detailed}, semantic: [{operation, argument}]}}; a test split has only the first two and isBalanced. Choices: {number:
{valid: [answer], plausible: [answer]}}. LXMERT: a list of {question_id, img_id, sent, label}.

Files are read question by question: train_all has 14 million.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, iterate_items, require_mapping
from msp_ds.preparation.sources.mentions import TextReference, parse_reference, plain_text, squeezed
from msp_ds.preparation.sources.questions import Question, answer_scores, each_once, id_text

_QUESTIONS = "GQA's questions by number, a folder of such files, or LXMERT's list of img_id, sent and label"
_CHOICES = "GQA's choices by question number, each with valid and plausible"
_NO_STEP = ("exist", "query: name", "choose name")
"""`operation: argument` with one of these is not a step of reasoning for the official script."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GqaQuestion(Question):
    """A question of GQA; fields that its file lacks are empty."""

    is_balanced: bool = True
    """Whether it is graded; others serve only the consistency metric. LXMERT's files hold only balanced ones."""
    entailed: tuple[str, ...] = ()
    """Ids of the questions whose answers follow from this one's, often including its own."""
    global_group: str = ""
    """Answer group of the distribution metric; many questions have none."""
    structural: str = ""
    """`query` for an open question; `verify`, `logical`, `choose`, `compare`."""
    semantic: str = ""
    detailed: str = ""
    num_steps: int = 0
    """Steps of reasoning: operations without those of _NO_STEP."""


class GqaChoices(NamedTuple):
    """The answers that a question allows."""

    question_id: str
    valid: frozenset[str]
    """Answers of the right kind: a colour for a question about colour."""
    plausible: frozenset[str]
    """Answers that occur for such objects."""


def read_gqa(written: str) -> Iterator[GqaQuestion]:
    """Yield the questions of a file, or of the .json files in a folder.

    Raises: InputError when a file is missing, damaged, of another layout or names a question twice.
    """
    return each_once(_questions(written), path=written)


def read_gqa_choices(written: str) -> Iterator[GqaChoices]:
    """Yield the choices of a file, or of the .json files in a folder. Raises: InputError as read_gqa."""
    for path in _files(parse_reference(written).path):
        for item in iterate_items(path, what=_CHOICES):
            entry = require_mapping(item, "valid", "plausible", what=_CHOICES)
            valid, plausible = (_texts(entry[name], item) for name in ("valid", "plausible"))
            yield GqaChoices(item.member, frozenset(valid), frozenset(plausible))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise InputError(f"{path} holds no .json file; it should be {_QUESTIONS}")
    return files


def _questions(written: str) -> Iterator[GqaQuestion]:
    file = parse_reference(written)
    for path in _files(file.path):
        for item in iterate_items(path, what=_QUESTIONS):
            yield _official(item, file) if item.member else _lxmert(item, file)


def _official(item: Item, file: TextReference) -> GqaQuestion:
    entry = require_mapping(item, "imageId", "question", what=_QUESTIONS)
    groups, types = (_object(entry.get(name, {}), item) for name in ("groups", "types"))
    structural, semantic, detailed = (
        squeezed(types.get(name), where=item.where) for name in ("structural", "semantic", "detailed")
    )
    return GqaQuestion(
        question_id=id_text(item.member, where=item.where),
        image_ids=(file.canonical(entry["imageId"], default="vg", where=item.where),),
        text=squeezed(entry["question"], where=item.where),
        answers=(plain_text(entry["answer"], where=item.where),) if "answer" in entry else (),
        is_balanced=bool(entry.get("isBalanced", True)),
        entailed=_texts(entry.get("entailed", []), item),
        global_group=squeezed(groups.get("global"), where=item.where),
        structural=structural,
        semantic=semantic,
        detailed=detailed,
        num_steps=_num_steps(entry.get("semantic", []), item),
    )


def _lxmert(item: Item, file: TextReference) -> GqaQuestion:
    entry = require_mapping(item, "question_id", "img_id", "sent", what=_QUESTIONS)
    scores = answer_scores(entry["label"], where=item.where) if "label" in entry else None
    return GqaQuestion(
        question_id=id_text(entry["question_id"], where=item.where),
        image_ids=(file.canonical(entry["img_id"], default="vg", where=item.where),),
        text=squeezed(entry["sent"], where=item.where),
        answers=tuple(scores) if scores and len(scores) == 1 else (),
        scores=scores,
    )


def _num_steps(operations: Any, item: Item) -> int:
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise InputError(f"{item.where}: semantic is not a list of operations; it should be {_QUESTIONS}")
    steps = (f"{one.get('operation')}: {one.get('argument')}" for one in operations)
    return sum(not any(words in step for words in _NO_STEP) for step in steps)


def _texts(value: Any, item: Item) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InputError(f"{item.where}: {value!r} is not a list")
    return tuple(plain_text(one, where=item.where) for one in value)


def _object(value: Any, item: Item) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{item.where}: {value!r} is not an object")
    return value
