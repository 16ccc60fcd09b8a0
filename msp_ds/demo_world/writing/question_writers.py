"""The raw files of a world's benchmarks in their official layouts: VQA v2, GQA, and NLVR2 as LXMERT has it."""

from collections import Counter, deque
from pathlib import Path
from typing import Any

from msp_ds.demo_world.language.questions import AnsweredQuestion, annotated, statements_of
from msp_ds.demo_world.scenes import Scene
from msp_ds.demo_world.writing.writers import COCO_NAME, JsonList, RawWriter, coco_id, genome_id

NEIGHBOURS = 64  # a statement's right image is one of so many scenes before its left image
_MOST_QUESTIONS = 10  # questions of an image at most: a question's number is its image's times this, plus its own


class VqaWriter(RawWriter):
    """vqa_questions.json and vqa_annotations.json."""

    def __init__(self, folder: Path) -> None:
        self._questions = JsonList(folder / "vqa_questions.json", head='{"questions": [', tail="]}\n")
        self._annotations = JsonList(folder / "vqa_annotations.json", head='{"annotations": [', tail="]}\n")
        super().__init__(self._questions, self._annotations)

    def add(self, seed: int, scene: Scene, questions: list[AnsweredQuestion]) -> None:
        """Append the questions about one image, each with ten answers."""
        for nth, question in enumerate(questions):
            number, image = scene.number * _MOST_QUESTIONS + nth, coco_id(scene.number)
            self._questions.add({"image_id": image, "question": question.text, "question_id": number})
            answers = annotated(seed, scene, nth, question)
            entry: dict[str, Any] = {"question_id": number, "image_id": image, "question_type": question.opening}
            entry |= {"answer_type": question.kind, "multiple_choice_answer": Counter(answers).most_common(1)[0][0]}
            entry["answers"] = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": person}
                for person, answer in enumerate(answers, start=1)
            ]
            self._annotations.add(entry)


class GqaWriter(RawWriter):
    """gqa_questions.json: the same questions without counting, under Visual Genome's numbers."""

    def __init__(self, folder: Path) -> None:
        self._questions = JsonList(folder / "gqa_questions.json", head="{", tail="}\n")
        super().__init__(self._questions)

    def add(self, scene: Scene, questions: list[AnsweredQuestion]) -> None:
        """Append the questions about one image of Visual Genome."""
        by_number = {
            str(scene.number * _MOST_QUESTIONS + nth): one for nth, one in enumerate(questions) if one.kind != "number"
        }
        for number, question in by_number.items():
            self._questions.add(_gqa_entry(number, question, scene, by_number), name=number)


def _gqa_entry(
    number: str, question: AnsweredQuestion, scene: Scene, by_number: dict[str, AnsweredQuestion]
) -> dict[str, Any]:
    """Return GQA's entry. A question for the colour of a thing entails those whether it has a certain colour."""
    follows = [
        other
        for other, one in by_number.items()
        if question.semantic == one.semantic == "attr" and question.structure == "query" and one.about == question.about
    ]
    operation = f"{question.structure} {question.semantic}"
    return {
        "question": question.text,
        "imageId": str(genome_id(scene.number)),
        "answer": question.answer,
        "isBalanced": True,
        "groups": {"global": question.group or None, "local": None},
        "entailed": follows or [number],
        "types": {"structural": question.structure, "semantic": question.semantic, "detailed": question.opening},
        "semantic": [
            {"operation": "select", "argument": question.about, "dependencies": []},
            {"operation": operation, "argument": question.answer, "dependencies": [0]},
        ],
    }


class StatementWriter(RawWriter):
    """nlvr2.json, LXMERT's list, whose images have the names of the regions."""

    def __init__(self, folder: Path) -> None:
        self._statements = JsonList(folder / "nlvr2.json")
        super().__init__(self._statements)
        self._before: deque[Scene] = deque(maxlen=NEIGHBOURS)

    def add(self, seed: int, scene: Scene) -> None:
        """Append the statements about one image and others before it."""
        for nth, statement in enumerate(statements_of(seed, scene, tuple(self._before))):
            entry = {"identifier": f"train-{scene.number}-{nth}-0", "uid": f"nlvr2_{scene.number}_{nth}"}
            names = {f"img{side}": COCO_NAME.format(coco_id(n)) for side, n in enumerate(statement[1:3])}
            self._statements.add(entry | names | {"label": int(statement.true), "sent": statement.text})
        self._before.append(scene)
