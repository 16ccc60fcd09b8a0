"""The raw files of a world's benchmarks in their official layouts: VQA v2, GQA, and NLVR2 as LXMERT has it."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from typing import Any

from msp_ds.demo_world.language.asking import AnsweredQuestion, annotated, questions_of, statements_of
from msp_ds.demo_world.scenes import Scene
from msp_ds.demo_world.writing.writers import COCO_NAME, JsonList, JsonObject, coco_id, genome_id

NEIGHBOURS = 64
"""A statement's right image is one of so many scenes before its left one."""
_MOST_QUESTIONS = 10
"""Of an image: a question's number is its image's times this, and its own."""


class VqaWriter:
    """vqa_questions.json and vqa_annotations.json."""

    def __init__(self, folder: Path) -> None:
        self._questions = JsonList(folder / "vqa_questions.json", head='{"questions": [')
        self._annotations = JsonList(folder / "vqa_annotations.json", head='{"annotations": [')

    def add(self, seed: int, scene: Scene, questions: list[AnsweredQuestion]) -> None:
        """The questions about one image, each answered by ten people."""
        for nth, question in enumerate(questions):
            number, image = scene.number * _MOST_QUESTIONS + nth, coco_id(scene.number)
            self._questions.add({"image_id": image, "question": question.text, "question_id": number})
            said = annotated(seed, scene, nth, question)
            entry: dict[str, Any] = {"question_id": number, "image_id": image, "question_type": question.opening}
            entry |= {"answer_type": question.kind, "multiple_choice_answer": Counter(said).most_common(1)[0][0]}
            entry["answers"] = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": person}
                for person, answer in enumerate(said, start=1)
            ]
            self._annotations.add(entry)

    def close(self) -> None:
        """End both files."""
        self._questions.close(tail="]}\n")
        self._annotations.close(tail="]}\n")

    def abandon(self) -> None:
        """Close what is open."""
        self._questions.abandon()
        self._annotations.abandon()


class GqaWriter:
    """gqa_questions.json: the same questions without counting, under Visual Genome's numbers."""

    def __init__(self, folder: Path) -> None:
        self._questions = JsonObject(folder / "gqa_questions.json")

    def add(self, scene: Scene, questions: list[AnsweredQuestion]) -> None:
        """The questions about one image of Visual Genome."""
        asked = {
            str(scene.number * _MOST_QUESTIONS + nth): one for nth, one in enumerate(questions) if one.kind != "number"
        }
        for number, question in asked.items():
            self._questions.put(number, _gqa_entry(number, question, scene, asked))

    def close(self) -> None:
        """End the file."""
        self._questions.close(tail="}\n")

    def abandon(self) -> None:
        """Close the file as it is."""
        self._questions.abandon()


def _gqa_entry(
    number: str, question: AnsweredQuestion, scene: Scene, asked: dict[str, AnsweredQuestion]
) -> dict[str, Any]:
    """Who knows a thing's colour can tell whether it is red: such questions are entailed."""
    follows = [
        other
        for other, one in asked.items()
        if question.semantic == one.semantic == "attr" and question.structure == "query" and one.about == question.about
    ]
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
            {
                "operation": f"{question.structure} {question.semantic}",
                "argument": question.answer,
                "dependencies": [0],
            },
        ],
    }


class StatementWriter:
    """nlvr2.json, LXMERT's list, whose images have the names of the regions."""

    def __init__(self, folder: Path) -> None:
        self._statements = JsonList(folder / "nlvr2.json")
        self._before: deque[Scene] = deque(maxlen=NEIGHBOURS)

    def add(self, seed: int, scene: Scene) -> None:
        """The statements about one image and others that came before."""
        for nth, statement in enumerate(statements_of(seed, scene, tuple(self._before))):
            entry = {"identifier": f"train-{scene.number}-{nth}-0", "uid": f"nlvr2_{scene.number}_{nth}"}
            names = {f"img{side}": COCO_NAME.format(coco_id(n)) for side, n in enumerate(statement[1:3])}
            self._statements.add(entry | names | {"label": int(statement.true), "sent": statement.text})
        self._before.append(scene)

    def close(self) -> None:
        """End the list."""
        self._statements.close(tail="]\n")

    def abandon(self) -> None:
        """Close the file as it is."""
        self._statements.abandon()


class QuestionFiles:
    """All of them."""

    def __init__(self, folder: Path) -> None:
        self.vqa = VqaWriter(folder)
        self.gqa = GqaWriter(folder)
        self.statements = StatementWriter(folder)

    def add(self, seed: int, scene: Scene, *, in_genome: bool) -> None:
        """What is asked about one image."""
        questions = questions_of(seed, scene)
        self.vqa.add(seed, scene, questions)
        if in_genome:
            self.gqa.add(scene, questions)
        self.statements.add(seed, scene)

    def close(self) -> None:
        """End the files."""
        for writer in (self.vqa, self.gqa, self.statements):
            writer.close()

    def abandon(self) -> None:
        """Close what is open."""
        for writer in (self.vqa, self.gqa, self.statements):
            writer.abandon()
