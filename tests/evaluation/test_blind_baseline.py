"""VQA's grades come with those of the most frequent training answers, which need no image."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import small_world

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.demo_world import make_world
from msp_ds.errors import InputError
from msp_ds.evaluation.blind_baseline import blind_answers, with_baseline
from msp_ds.evaluation.grading import Graded, GradingPlan, QuestionSource, grade_file
from msp_ds.preparation.recipe import BenchmarkRecipe
from msp_ds.preparation.sources.vqa import VqaQuestion
from msp_ds.preparation.writing.shard_building import build_shards

TYPES = ("what color is the", "how many", "is the")
TRUTHS = ("red", "2", "yes")
"""The answer of all ten annotators to most questions of a type."""


def questions_about(images: list[int], folder: Path) -> QuestionSource:
    """Three questions an image; `TRUTHS` are the answers, but for every third image's first."""
    questions, annotations = [], []
    for image in images:
        for nth, (kind, truth) in enumerate(zip(TYPES, TRUTHS, strict=True)):
            answer = "blue" if nth == 0 and image % 3 == 0 else truth
            entry = {"question_id": image * 10 + nth, "image_id": image}
            questions.append({**entry, "question": f"{kind} car?"})
            answers = {"answers": [{"answer": answer}] * 10, "multiple_choice_answer": answer}
            annotations.append({**entry, **answers, "question_type": kind, "answer_type": "other"})
    paths = folder / "questions.json", folder / "annotations.json"
    for path, (name, value) in zip(paths, {"questions": questions, "annotations": annotations}.items(), strict=True):
        path.write_text(json.dumps({name: value}))
    return QuestionSource(questions=str(paths[0]), annotations=str(paths[1]))


@pytest.fixture(scope="module")
def vqa_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[QuestionSource, ShardSet, Path]:
    """The questions of a world of 40 images, the held-out set, and a file that answers all of it with yes."""
    folder = tmp_path_factory.mktemp("baseline")
    make_world(folder / "world", images=40, seed=0, feature_width=16)
    caption_file = json.loads((folder / "world" / "captions.json").read_text())
    source = questions_about(sorted({one["id"] for one in caption_file["images"]}), folder)
    benchmark = BenchmarkRecipe(questions=(str(source.questions),), annotations=(str(source.annotations),))
    recipe = small_world.recipe_of(folder / "world", holdout=8, benchmarks={"vqa": benchmark})
    build_shards(recipe, stage="vqa", out=folder / "shards")
    held_out = open_set(folder / "shards" / "vqa" / "val")
    assert held_out.questions is not None
    ids = [one.decode() for one in held_out.questions.question_ids]
    predictions = folder / "predictions.json"
    predictions.write_text(json.dumps([{"question_id": int(one), "answer": "yes"} for one in ids]))
    return dataclasses.replace(source, only=frozenset(ids)), held_out, predictions


NO_FILES = QuestionSource()


def graded_with(vqa_set: tuple[QuestionSource, ShardSet, Path], *, training: QuestionSource = NO_FILES) -> Graded:
    source, held_out, predictions = vqa_set
    plan = GradingPlan(task="vqa", source=source)
    return with_baseline(grade_file(plan, predictions), plan, shards=held_out, training=training)


def expected_baseline(held_out: ShardSet) -> float:
    """Every how many and is the, and the colours of images whose number is no multiple of three."""
    numbers = [int(key.removeprefix("coco-")) for key in held_out.keys]
    return 100 * sum(2 + (number % 3 != 0) for number in numbers) / (3 * len(numbers))


def test_the_baseline_learns_from_the_training_set_beside(vqa_set: tuple[QuestionSource, ShardSet, Path]) -> None:
    graded = graded_with(vqa_set)
    assert list(graded.scores)[:2] == ["accuracy", "baseline"]
    assert graded.scores["baseline"].percent == pytest.approx(expected_baseline(vqa_set[1]))
    better, (low, high) = graded.numbers["accuracy - baseline"]
    assert better == pytest.approx(100 / 3 - expected_baseline(vqa_set[1]))  # yes is right to one of three
    assert low < better < high
    assert graded.note.startswith("baseline: the commonest training answer to each question type")


def test_the_training_files_may_be_named(vqa_set: tuple[QuestionSource, ShardSet, Path], tmp_path: Path) -> None:
    graded = graded_with(vqa_set, training=questions_about([3], tmp_path))  # blue is the commonest there
    numbers = [int(key.removeprefix("coco-")) for key in vqa_set[1].keys]
    right = sum(2 + (number % 3 == 0) for number in numbers)
    assert graded.scores["baseline"].percent == pytest.approx(100 * right / (3 * len(numbers)))


def test_the_graded_questions_themselves_teach_nothing(vqa_set: tuple[QuestionSource, ShardSet, Path]) -> None:
    source, _, _ = vqa_set
    both = dataclasses.replace(source, only=None)
    assert (
        graded_with(vqa_set, training=both).scores["baseline"].values == graded_with(vqa_set).scores["baseline"].values
    )


def test_without_training_questions_the_note_names_the_flag(
    vqa_set: tuple[QuestionSource, ShardSet, Path], tmp_path: Path
) -> None:
    source, held_out, predictions = vqa_set
    elsewhere = dataclasses.replace(held_out, path=tmp_path / "vqa" / "val")
    graded = graded_with((source, elsewhere, predictions))
    assert "baseline" not in graded.scores
    assert graded.note == "baseline needs the training questions; name them with --training-questions FILE"


def test_other_benchmarks_have_none(vqa_set: tuple[QuestionSource, ShardSet, Path]) -> None:
    graded = Graded(scores={})
    assert with_baseline(graded, GradingPlan(task="nlvr2"), shards=vqa_set[1], training=NO_FILES) is graded


def question(number: int, kind: str, commonest: str | None = None, **more: object) -> VqaQuestion:
    return VqaQuestion(
        question_id=str(number),
        image_ids=("coco-1",),
        text="?",
        question_type=kind,
        commonest_answer=commonest,
        **more,  # type: ignore[arg-type]
    )


TRAINING = (
    question(1, "is the", "no"),
    question(2, "is the", "yes"),
    question(3, "is the", "no"),
    question(4, "how many", "2"),
    question(5, "what is", "dog"),
    question(6, "what is", "cat"),
)


def test_each_type_gets_its_own_commonest_answer_and_equals_the_first_in_the_alphabet() -> None:
    questions = [question(7, "is the"), question(8, "how many"), question(9, "what is")]
    assert blind_answers(questions, training=TRAINING) == {"7": "no", "8": "2", "9": "cat"}
    assert blind_answers(questions, training=TRAINING[::-1]) == {"7": "no", "8": "2", "9": "cat"}


def test_a_type_that_training_lacks_gets_the_commonest_of_all() -> None:
    assert blind_answers([question(7, "why")], training=TRAINING) == {"7": "no"}


def test_lxmerts_lists_count_the_answer_with_the_best_score() -> None:
    training = [
        question(1, "is the", scores={"yes": 0.3, "no": 1.0}),
        question(2, "is the", scores={"yes": 0.6}),
        question(3, "is the", scores={"no": 0.9}),
        question(4, "is the", scores={}),
    ]
    assert blind_answers([question(5, "is the")], training=training) == {"5": "no"}


def test_training_without_answers_is_refused() -> None:
    with pytest.raises(InputError, match="no training question has an answer"):
        blind_answers([question(1, "why")], training=[question(2, "why", scores={})])
