"""The questions that a recipe's benchmark names, ready to stand beside the pairs of a set.

Official files and LXMERT's are read alike; answers become numbers in a vocabulary that is read, or built of them.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msp_ds.data.format.set_layout import BenchmarkName, Split
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import BenchmarkRecipe
from msp_ds.preparation.sources.gqa import read_gqa
from msp_ds.preparation.sources.nlvr2 import read_nlvr2
from msp_ds.preparation.sources.questions import Question
from msp_ds.preparation.sources.vqa import VqaQuestion, read_vqa
from msp_ds.preparation.texts.answer_vocabulary import (
    AnswerVocabulary,
    build_vocabulary,
    build_vqa_vocabulary,
    read_vocabulary,
    scores_of,
)


class PairQuestion(NamedTuple):
    """A question as a set holds it."""

    question_id: str
    text: str
    second_image: str
    """Canonical id, empty where there is but one."""
    targets: tuple[tuple[int, float], ...]
    """Answer numbers and how right each is."""


@dataclass(frozen=True, kw_only=True)
class QuestionBook:
    """What a benchmark asks about each image."""

    by_image: Mapping[str, Sequence[PairQuestion]]
    """Canonical id -> the questions whose first image it is."""
    answers: tuple[str, ...]
    split_of: Mapping[str, Split]
    """Of the images whose split the files decide; the others' is decided by the holdout."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was read and left out."""

    @cached_property
    def second_images(self) -> frozenset[str]:
        """Images that questions need beside their own."""
        return frozenset(asked.second_image for some in self.by_image.values() for asked in some if asked.second_image)

    def image_pairs(self) -> Iterator[tuple[str, str]]:
        """The images of each question that has two."""
        for image_id, some in self.by_image.items():
            yield from ((image_id, asked.second_image) for asked in some if asked.second_image)

    def within(self, split_of: Mapping[str, Split]) -> QuestionBook:
        """The questions all of whose images are in one split; the others are counted."""
        kept: dict[str, list[PairQuestion]] = {}
        dropped = 0
        for image_id, some in self.by_image.items():
            split = split_of.get(image_id)
            whole = [asked for asked in some if not asked.second_image or split_of.get(asked.second_image) == split]
            dropped += len(some) - len(whole)
            if whole:
                kept[image_id] = whole
        counts = self.counts + Counter(questions_across_splits=dropped)
        return dataclasses.replace(self, by_image=kept, counts=counts)

    def arrays(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The questions of the images `keys` in their order, as data.questions.Questions holds them."""
        row_of = {key: row for row, key in enumerate(keys)}
        ids: list[bytes] = []
        offsets, second = array("q", [0]), array("i")
        places, scores = array("i"), array("f")
        for key in keys:
            for asked in self.by_image.get(key, ()):
                ids.append(asked.question_id.encode("ascii"))
                second.append(row_of[asked.second_image] if asked.second_image else -1)
                places.extend(number for number, _ in asked.targets)
                scores.extend(score for _, score in asked.targets)
                offsets.append(len(places))
        return {
            "question_ids": np.array(ids, dtype=np.bytes_),
            "answer_offsets": np.array(offsets, dtype=np.int64),
            "answer_ids": np.array(places, dtype=np.int32),
            "answer_scores": np.array(scores, dtype=np.float32),
            "second_images": np.array(second, dtype=np.int32),
        }


_TRUTHS = ("False", "True")
"""NLVR2's answers: index 1 says that the statement is true."""


def _read_vqa(questions: str, annotations: str) -> Iterable[VqaQuestion]:
    return read_vqa(questions, annotations or None)


def _read_balanced(questions: str, annotations: str) -> Iterator[Question]:
    """The rest of GQA's questions only serves its consistency."""
    return (question for question in read_gqa(questions) if question.is_balanced)


def _read_statements(questions: str, annotations: str) -> Iterable[Question]:
    return read_nlvr2(questions)


_READERS: dict[BenchmarkName, Callable[[str, str], Iterable[Question]]] = {
    "vqa": _read_vqa,
    "gqa": _read_balanced,
    "nlvr2": _read_statements,
}


def read_benchmark(name: BenchmarkName, recipe: BenchmarkRecipe, *, picture: Callable[[str], str]) -> QuestionBook:
    """The questions of a benchmark. picture: an image's canonical id -> the id under which its regions stand.

    Raises: InputError when the recipe names none, a file is broken, an image is in two splits, or no answer is known.
    """
    if not recipe.questions:
        raise InputError(f"task {name} needs questions; name a file of them with --questions FILE")
    read = _READERS[name]
    asked: dict[Split, list[Question]] = {"train": _read_all(read, recipe.questions, recipe.annotations)}
    if recipe.val_questions:
        asked["val"] = _read_all(read, recipe.val_questions, recipe.val_annotations)
    if recipe.test_questions:
        asked["test"] = _read_all(read, recipe.test_questions, ())
    vocabulary = _vocabulary(name, recipe, [*asked["train"], *asked.get("val", [])])
    by_image: dict[str, list[PairQuestion]] = {}
    split_of: dict[str, Split] = {}
    counts: Counter[str] = Counter()
    for split, questions in asked.items():
        for question in questions:
            first, *second = (picture(image_id) for image_id in question.image_ids)
            _claim(split_of, (first, *second), split)
            targets = _targets(question, vocabulary, counts) if split != "test" else ()
            counts["questions_read"] += 1
            entry = PairQuestion(question.question_id, question.text, second[0] if second else "", targets)
            by_image.setdefault(first, []).append(entry)
    if counts["questions_without_known_answer"] == counts["questions_read"] - len(asked.get("test", ())):
        raise InputError(f"no question has an answer that {vocabulary.name} holds; name other --answers")
    if "val" not in asked:  # the holdout divides what is not for the test
        split_of = {image_id: split for image_id, split in split_of.items() if split == "test"}
    return QuestionBook(by_image=by_image, answers=vocabulary.answers, split_of=split_of, counts=counts)


def _read_all(
    read: Callable[[str, str], Iterable[Question]], questions: Sequence[str], annotations: Sequence[str]
) -> list[Question]:
    if annotations and len(annotations) != len(questions):
        raise InputError(
            f"{len(questions)} files of questions need as many of annotations, not {len(annotations)}; "
            "name them in the same order"
        )
    pairs = zip(questions, annotations or [""] * len(questions), strict=True)
    return [question for path, answered in pairs for question in read(path, answered)]


def _claim(split_of: dict[str, Split], images: Iterable[str], split: Split) -> None:
    for image_id in images:
        if split_of.setdefault(image_id, split) != split:
            raise InputError(
                f"image {image_id} is in the questions of split {split_of[image_id]} and of split {split}; "
                "no image may be in two, or the one would be graded on the other"
            )


def _vocabulary(name: BenchmarkName, recipe: BenchmarkRecipe, questions: Sequence[Question]) -> AnswerVocabulary:
    if name == "nlvr2":
        return AnswerVocabulary(_TRUTHS, name="NLVR2's answers")
    if recipe.answers:
        return read_vocabulary(Path(recipe.answers))
    if name == "vqa":
        return build_vqa_vocabulary(
            (one for one in questions if isinstance(one, VqaQuestion)), least=recipe.least_questions
        )
    return build_vocabulary(questions)


def _targets(question: Question, vocabulary: AnswerVocabulary, counts: Counter[str]) -> tuple[tuple[int, float], ...]:
    targets = {number: score for number, score in vocabulary.targets(scores_of(question)).items() if score > 0}
    if not targets:
        counts["questions_without_known_answer"] += 1
    return tuple(targets.items())
