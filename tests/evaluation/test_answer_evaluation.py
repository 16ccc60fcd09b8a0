"""A model's answers belong to their questions in a batch of any size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import small_world
import torch

from msp_ds.curriculum import BENCHMARKS
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.demo_world import make_world
from msp_ds.evaluation import answer_evaluation
from msp_ds.evaluation.answer_evaluation import Answerer
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.preparation.recipe import BenchmarkRecipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.presets import PRESETS
from msp_ds.tasks.task import Context
from msp_ds.training.checkpointing.run_folder import model_for


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of VQA and NLVR2 of 60 images."""
    folder = tmp_path_factory.mktemp("answering")
    world = folder / "world"
    make_world(world, images=60, seed=0, feature_width=16)
    recipes = {
        "vqa": BenchmarkRecipe(
            questions=(str(world / "vqa_questions.json"),),
            annotations=(str(world / "vqa_annotations.json"),),
            least_questions=2,
        ),
        "nlvr2": BenchmarkRecipe(questions=(str(world / "nlvr2.json"),)),
    }
    recipe = small_world.recipe_of(world, benchmarks=recipes)
    for name in recipes:
        build_shards(recipe, stage=name, out=folder / "shards")  # type: ignore[arg-type]
    return folder / "shards"


def an_answerer(one: ShardSet, task: str) -> Answerer:
    model = dataclasses.replace(model_for(PRESETS["tiny"].model, one), init_std=0.2)
    torch.manual_seed(0)
    backbone = Backbone(model)
    benchmark = BENCHMARKS[task].tasks[0]
    context = Context(
        seed=0,
        epoch=0,
        options=PRESETS["tiny"].tasks,
        tables=one.tables(),
        feature_mean=torch.from_numpy(one.feature_mean),
    )
    return Answerer(backbone, build_heads(benchmark.heads, model, backbone), benchmark, context)


@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
def test_answers_are_those_of_each_question_alone(sets: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_evaluation, "BATCH", 7)
    one = open_set(sets / task / "train")
    assert one.questions is not None
    reader, answerer = Reader(one), an_answerer(one, task)
    heard: list[int] = []
    answers = answerer.answers(reader, advance=heard.append)
    assert sum(heard) == len(answers) == one.index.num_pairs
    assert len(set(answers.values())) > 1  # a head that says one thing would prove nothing
    for row in range(0, one.index.num_pairs, 11):
        logits = answerer.logits(reader, torch.tensor([row]))
        question = one.questions.question_ids[row].decode()
        assert answers[question] == one.questions.answers[int(logits.argmax())]


def test_the_right_image_of_a_statement_is_looked_at(sets: Path) -> None:
    one = open_set(sets / "nlvr2" / "train")
    assert one.questions is not None
    swapped = dataclasses.replace(one.questions, second_images=np.roll(one.questions.second_images, 1))
    rows = torch.arange(8)
    before = an_answerer(one, "nlvr2").logits(Reader(one), rows)
    after = an_answerer(one, "nlvr2").logits(Reader(dataclasses.replace(one, questions=swapped)), rows)
    assert not torch.allclose(before, after, atol=1e-4)


def test_a_task_that_answers_nothing_is_refused(sets: Path) -> None:
    one = open_set(sets / "vqa" / "train")
    answerer = an_answerer(one, "vqa")
    with pytest.raises(ValueError, match="task retrieval answers no questions"):
        Answerer(answerer.backbone, answerer.heads, BENCHMARKS["retrieval"].tasks[0], answerer._context)
