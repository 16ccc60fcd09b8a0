"""The questions of a benchmark in a recipe, as they are stored beside the pairs of a set.

Official files and LXMERT's are read. Answers become numbers of a vocabulary that is read, or built from the questions.
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
    """A question as a set stores it."""

    question_id: str
    text: str
    second_image: str
    """Canonical id; empty for a question about one image."""
    targets: tuple[tuple[int, float], ...]
    """(answer number, score from 0 to 1) of each right answer."""


@dataclass(frozen=True, kw_only=True)
class QuestionBook:
    """The questions of a benchmark by image."""

    by_image: Mapping[str, Sequence[PairQuestion]]
    """Canonical id -> questions with this first image."""
    answers: tuple[str, ...]
    split_of: Mapping[str, Split]
    """Splits of the images whose files decide it; the holdout decides the others."""
    counts: Counter[str] = field(default_factory=Counter)
    """Questions that were read and left out."""

    @cached_property
    def second_images(self) -> frozenset[str]:
        """All second images."""
        return frozenset(second for _, second in self.image_pairs())

    def image_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the two images of each question that has two."""
        for image_id, questions in self.by_image.items():
            yield from ((image_id, one.second_image) for one in questions if one.second_image)

    def within(self, split_of: Mapping[str, Split]) -> QuestionBook:
        """Return the questions whose images are all in one split; the others are counted."""
        kept: dict[str, list[PairQuestion]] = {}
        dropped = 0
        for image_id, questions in self.by_image.items():
            split = split_of.get(image_id)
            whole = [one for one in questions if not one.second_image or split_of.get(one.second_image) == split]
            dropped += len(questions) - len(whole)
            if whole:
                kept[image_id] = whole
        counts = self.counts + Counter(questions_across_splits=dropped)
        return dataclasses.replace(self, by_image=kept, counts=counts)

    def arrays(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the questions of the images `keys` in their order, as the arrays of a set's questions table."""
        row_of = {key: row for row, key in enumerate(keys)}
        ids: list[bytes] = []
        offsets, second = array("q", [0]), array("i")
        numbers, scores = array("i"), array("f")
        for key in keys:
            for question in self.by_image.get(key, ()):
                ids.append(question.question_id.encode("ascii"))
                second.append(row_of[question.second_image] if question.second_image else -1)
                numbers.extend(number for number, _ in question.targets)
                scores.extend(score for _, score in question.targets)
                offsets.append(len(numbers))
        return {
            "question_ids": np.array(ids, dtype=np.bytes_),
            "answer_offsets": np.array(offsets, dtype=np.int64),
            "answer_ids": np.array(numbers, dtype=np.int32),
            "answer_scores": np.array(scores, dtype=np.float32),
            "second_images": np.array(second, dtype=np.int32),
        }


_TRUTHS = ("False", "True")
"""NLVR2's answers: index 1 says that the statement is true."""


_READERS: dict[BenchmarkName, Callable[[str, str], Iterable[Question]]] = {
    "vqa": lambda questions, annotations: read_vqa(questions, annotations or None),
    # The other questions of GQA serve only the consistency metric.
    "gqa": lambda questions, _: (question for question in read_gqa(questions) if question.is_balanced),
    "nlvr2": lambda questions, _: read_nlvr2(questions),
}
"""Benchmark -> reader of a file of questions and, for VQA, one of annotations."""


def read_benchmark(name: BenchmarkName, recipe: BenchmarkRecipe, *, picture: Callable[[str], str]) -> QuestionBook:
    """Read the questions of a benchmark. picture: an image's canonical id -> the id of its regions.

    Raises: InputError when the recipe names none, a file is broken, an image is in two splits, or no answer is known.
    """
    if not recipe.questions:
        raise InputError(f"task {name} needs questions; name a file of them with --questions FILE")
    read = _READERS[name]
    by_split: dict[Split, list[Question]] = {"train": _read_all(read, recipe.questions, recipe.annotations)}
    if recipe.val_questions:
        by_split["val"] = _read_all(read, recipe.val_questions, recipe.val_annotations)
    if recipe.test_questions:
        by_split["test"] = _read_all(read, recipe.test_questions, ())
    vocabulary = _vocabulary(name, recipe, [*by_split["train"], *by_split.get("val", [])])
    by_image: dict[str, list[PairQuestion]] = {}
    split_of: dict[str, Split] = {}
    counts: Counter[str] = Counter()
    for split, questions in by_split.items():
        for question in questions:
            first, *second = (picture(image_id) for image_id in question.image_ids)
            _assign_split(split_of, (first, *second), split)
            targets = _targets(question, vocabulary, counts) if split != "test" else ()
            counts["questions_read"] += 1
            entry = PairQuestion(question.question_id, question.text, second[0] if second else "", targets)
            by_image.setdefault(first, []).append(entry)
    if counts["questions_without_known_answer"] == counts["questions_read"] - len(by_split.get("test", ())):
        raise InputError(f"no question has an answer that {vocabulary.name} holds; name other --answers")
    if "val" not in by_split:  # the holdout divides what is not for the test
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


def _assign_split(split_of: dict[str, Split], images: Iterable[str], split: Split) -> None:
    for image_id in images:
        if split_of.setdefault(image_id, split) != split:
            raise InputError(
                f"image {image_id} is in the questions of split {split_of[image_id]} and of split {split}; "
                "an image may be in one split only, or training data would be graded"
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
