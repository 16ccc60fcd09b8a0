"""The texts of each stage and benchmark: labels, phrases, captions or questions about an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import cast

from msp_ds.data.format.set_layout import BenchmarkName, SetName, Split
from msp_ds.data.format.text import Label, WordPieces
from msp_ds.data.progress import NoProgress, Progress
from msp_ds.errors import InputError
from msp_ds.preparation.parsing.text_table import TextTable
from msp_ds.preparation.recipe import FROM_CAPTIONS, BenchmarkRecipe, Recipe
from msp_ds.preparation.sources.text_files import TextKind, read_texts
from msp_ds.preparation.sources.visual_genome import NO_DUPLICATES, CocoDuplicates, read_duplicates
from msp_ds.preparation.texts.benchmark_questions import QuestionBook, read_benchmark
from msp_ds.preparation.texts.phrases import group_phrases
from msp_ds.preparation.texts.tagging import ImageTexts, phrases_of_images
from msp_ds.records import RegionRecord

_REMEMBERED = 1 << 16
"""Phrases whose pieces are counted once, about 10 MB."""


class TextFiles:
    """The texts of a recipe; each file is read on first use."""

    def __init__(self, recipe: Recipe, *, image_ids: frozenset[str]) -> None:
        """image_ids: the images that have regions."""
        self._recipe = recipe
        self._image_ids = image_ids
        self._books: dict[BenchmarkName, QuestionBook] = {}
        self.counts: Counter[str] = Counter()
        """Texts that were read and left out so far."""

    @cached_property
    def duplicate_table(self) -> CocoDuplicates:
        """The table of duplicates in the recipe's image_data."""
        path = self._recipe.image_data
        return read_duplicates(Path(path)) if path else NO_DUPLICATES

    @cached_property
    def duplicates(self) -> dict[str, str]:
        """`vg-N` -> `coco-M` for the images of both corpora whose regions have the COCO id."""
        return {genome: coco for genome, coco in self.duplicate_table.coco_of.items() if coco in self._image_ids}

    @cached_property
    def captions(self) -> TextTable:
        """All captions. Raises: InputError for a broken file or one named twice."""
        return self._gathered(self._recipe.captions, "caption")

    @cached_property
    def phrases(self) -> TextTable:
        """All phrases as written. Raises: InputError for a broken file or one named twice."""
        return self._gathered([path for path in self._recipe.phrases if path != FROM_CAPTIONS], "phrase")

    def _gathered(self, paths: Sequence[str], kind: TextKind) -> TextTable:
        """Merge the texts of several files; those of a duplicate go to its COCO image.

        Texts that an earlier file has are dropped: Karpathy's sentences are COCO's captions. Repeats within a file are
        kept, as in the official counts.
        """
        if len(set(paths)) < len(paths):
            raise InputError(f"the recipe names {Counter(paths).most_common(1)[0][0]} twice among its {kind}s")
        gathered = TextTable()
        for path in paths:
            file = read_texts(path, kind)
            self.counts[f"{kind}s_empty"] += file.num_empty
            num_before = {image_id: len(texts) for image_id, texts in gathered.items()}
            for image_id, texts in file.by_image.drain():
                picture = self.duplicates.get(image_id, image_id)
                known = frozenset(gathered.get(picture, [])[: num_before.get(picture, 0)])
                new = [text for text in texts if text not in known]
                self.counts[f"{kind}s_in_two_files"] += len(texts) - len(new)
                gathered.add(picture, new)
        return gathered

    def questions(self, name: BenchmarkName) -> QuestionBook:
        """All questions of a benchmark. Raises: InputError when the recipe names none, or a file is broken."""
        if name not in self._books:
            recipe = self._recipe.benchmarks.get(name, BenchmarkRecipe())
            self._books[name] = read_benchmark(name, recipe, picture=lambda image: self.duplicates.get(image, image))
        return self._books[name]

    def all_texts(self) -> Iterator[str]:
        """Yield every caption, phrase and question, for a vocabulary that serves all stages and benchmarks."""
        for by_image in (self.captions, self.phrases):
            for texts in by_image.values():
                yield from texts
        for name in sorted(self._recipe.benchmarks):
            for questions in self.questions(cast(BenchmarkName, name)).by_image.values():
                yield from (question.text for question in questions)


@dataclass(frozen=True, kw_only=True)
class StageTexts:
    """The texts of a stage by image."""

    texts_of: Callable[[RegionRecord], list[str]]
    """Returns the texts of an image, possibly none."""
    by_image: Mapping[str, list[str]] | None = None
    """The texts by image id; None where they are made from the regions and so are not known in advance."""
    questions: QuestionBook | None = None
    """The questions of a benchmark, whose texts these are."""

    def known(self, image_id: str) -> list[str] | None:
        """Return the texts of an image; None where they are made from its regions."""
        return None if self.by_image is None else self.by_image.get(image_id, [])

    @property
    def image_ids(self) -> frozenset[str]:
        """Images in the text files."""
        return frozenset(self.by_image or ()) | self.needed_beside

    @cached_property
    def needed_beside(self) -> frozenset[str]:
        """Images that are needed even without texts of their own: second images of questions."""
        return frozenset() if self.questions is None else self.questions.second_images

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """The two images of each text that has two."""
        return iter(()) if self.questions is None else self.questions.image_pairs()

    def within(self, split_of: Mapping[str, Split]) -> StageTexts:
        """Return the texts whose images are all in one split."""
        return self if self.questions is None else _from_questions(self.questions.within(split_of))


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Settings of the texts of a stage."""

    recipe: Recipe
    objects: tuple[Label, ...]
    pieces: WordPieces
    max_tokens: int
    jobs: int = 1
    """Processes that tag phrases; the result is the same for any number."""
    progress: Progress = field(default_factory=NoProgress)


def texts_of_stage(stage: SetName, *, files: TextFiles, settings: TextSettings) -> StageTexts:
    """Return the texts of a stage; `files.counts` then holds what was left out.

    Raises: InputError when the recipe names none, or a file is broken.
    """
    return _MAKERS[stage](files, settings)


def label_text(record: RegionRecord, objects: tuple[Label, ...]) -> str:
    """Return the first names of the regions' labels in region order, without regions that have no label."""
    return " ".join(objects[number][0] for number in record.object_ids.tolist() if number >= 0)


def _token_texts(files: TextFiles, settings: TextSettings) -> StageTexts:
    def texts_of(record: RegionRecord) -> list[str]:
        text = label_text(record, settings.objects)
        return [text] if text else []

    return StageTexts(texts_of=texts_of)


def _phrase_texts(files: TextFiles, settings: TextSettings) -> StageTexts:
    if not settings.recipe.phrases:
        raise InputError("stage phrase needs phrases; name a file with --phrases FILE, or --phrases from-captions")
    count_pieces = lru_cache(maxsize=_REMEMBERED)(lambda phrase: len(settings.pieces.ids_of(phrase)))
    by_image = TextTable()
    for image_id, phrases in _phrases_without_verbs(files, settings):
        by_image.add(image_id, group_phrases(phrases, max_tokens=settings.max_tokens, count_pieces=count_pieces))
        settings.progress.advance(1)
    return _from_table(by_image)


def _phrases_without_verbs(files: TextFiles, settings: TextSettings) -> Iterator[tuple[str, list[str]]]:
    """Yield each image with its phrases of all origins, each once; possibly none."""
    written = files.phrases
    captions: Mapping[str, list[str]] = files.captions if FROM_CAPTIONS in settings.recipe.phrases else {}
    image_ids = list(dict.fromkeys([*written, *captions]))
    settings.progress.start("tagging phrases (images)", len(image_ids))
    texts = (ImageTexts(written.get(image_id, []), captions.get(image_id, [])) for image_id in image_ids)
    found = phrases_of_images(texts, jobs=settings.jobs)
    for image_id, image in zip(image_ids, found, strict=True):
        files.counts.update(
            phrases_read=image.num_read,
            phrases_repeated=image.num_read - image.num_distinct,
            phrases_with_verbs=image.num_distinct - image.num_kept,
            phrases_cut_from_captions=image.num_cut,
        )
        yield image_id, image.phrases


def _sentence_texts(files: TextFiles, settings: TextSettings) -> StageTexts:
    if not settings.recipe.captions:
        raise InputError("stage sentence needs captions; name a file of them with --captions FILE")
    return _from_table(files.captions)


def _question_texts(files: TextFiles, settings: TextSettings, *, name: BenchmarkName) -> StageTexts:
    return _from_questions(files.questions(name))


def _from_questions(questions: QuestionBook) -> StageTexts:
    by_image = {image_id: [question.text for question in found] for image_id, found in questions.by_image.items()}
    return StageTexts(texts_of=lambda record: by_image.get(record.image_id, []), by_image=by_image, questions=questions)


def _from_table(by_image: TextTable) -> StageTexts:
    return StageTexts(texts_of=lambda record: by_image.get(record.image_id, []), by_image=by_image)


_MAKERS: dict[SetName, Callable[[TextFiles, TextSettings], StageTexts]] = {
    "token": _token_texts,
    "phrase": _phrase_texts,
    "sentence": _sentence_texts,
    "vqa": partial(_question_texts, name="vqa"),
    "gqa": partial(_question_texts, name="gqa"),
    "nlvr2": partial(_question_texts, name="nlvr2"),
    "retrieval": _sentence_texts,
}
