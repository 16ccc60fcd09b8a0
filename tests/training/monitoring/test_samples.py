"""Samples of held-out pairs hold the model's predictions and the shards' contents."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from msp_ds.config import TaskOptions
from msp_ds.curriculum import curriculum
from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.model.encoder import Backbone
from msp_ds.presets import get_preset
from msp_ds.tasks.task import Context
from msp_ds.training.checkpointing.run_folder import model_for
from msp_ds.training.monitoring.metric_texts import marked_text, plain, sample_text
from msp_ds.training.monitoring.sample_picture import chosen_words, draw_sample
from msp_ds.training.monitoring.samples import MaskedPrediction, Names, Sample, predict_samples, spread_pairs
from msp_ds.training.pretraining_model import PretrainingModel

EPOCH = -1
SAMPLE = Sample(
    image_id="coco-7",
    width=200,
    height=100,
    pieces=("[CLS]", "a", "skate", "##board", "er", "[SEP]"),
    boxes=np.array([[0, 0, 100, 100], [100, 0, 200, 50]], np.float32),
    labels=("man", ""),
    words=(MaskedPrediction(position=3, right="##board", guesses=(("##board", 0.75), ("dog", 0.125))),),
    objects=(MaskedPrediction(position=0, right="man", guesses=(("cat", 0.5),)),),
    predicted_topics=(),
    right_topics=("man",),
    match=0.25,
    attention=np.tile(np.array([0.5, 0.25], np.float32), (6, 1)),
)


def a_learner(reader: Reader, stage: str, preset: str = "tiny") -> PretrainingModel:
    torch.manual_seed(0)
    shards = reader.shards
    context = Context(
        seed=1,
        epoch=0,
        options=TaskOptions(),
        tables=shards.tables(),
        feature_mean=torch.from_numpy(shards.feature_mean),
    )
    backbone = Backbone(model_for(get_preset(preset).model, shards))
    return PretrainingModel(backbone, curriculum(stage)[0].tasks, context).eval()


def sampled(reader: Reader, model: PretrainingModel, stage: str, pairs: list[int]) -> list[Sample]:
    tasks = curriculum(stage)[0].tasks
    return predict_samples(model, reader, torch.tensor(pairs), tasks=tasks, epoch=EPOCH, names=Names.of(reader))


@pytest.mark.parametrize("preset", ["tiny", "tiny-single-stream"])
def test_samples_hold_what_the_shards_hold(small_shards: Path, preset: str) -> None:
    reader = Reader(open_set(small_shards / "sentence" / "val"))
    pieces = reader.shards.word_pieces().vocabulary.pieces
    model = a_learner(reader, "s", preset)
    samples = sampled(reader, model, "s", [0, 7])
    for sample, pair in zip(samples, [0, 7], strict=True):
        record = reader.record(int(reader.images[pair]))
        assert (sample.image_id, sample.width, sample.height) == (record.image_id, record.width, record.height)
        start, end = reader.shards.pairs.offsets[pair : pair + 2]
        assert list(sample.pieces) == [pieces[number] for number in reader.shards.pairs.token_ids[start:end]]
        assert sample.attention.shape == (len(sample.pieces), len(record.boxes))
        assert all(sample.pieces[question.position] == question.right for question in sample.words)
        assert all(sample.labels[question.position] == question.right for question in sample.objects)
        assert sample.match is not None
    assert any(sample.words for sample in samples)
    assert any(sample.objects for sample in samples)


def test_a_model_with_one_likely_word_predicts_it_everywhere(small_shards: Path) -> None:
    reader = Reader(open_set(small_shards / "token" / "val"))
    model = a_learner(reader, "t")
    with torch.no_grad():
        model.heads["token"].decoder.bias[9] = 1000.0
        model.heads["region"].object_decoder.bias[3] = 1000.0
    names = Names.of(reader)
    samples = sampled(reader, model, "t", list(range(6)))
    guessed = {question.guesses[0] for sample in samples for question in sample.words}
    seen = {question.guesses[0] for sample in samples for question in sample.objects}
    assert guessed == {(names.pieces[9], 1.0)}
    assert seen == {(names.objects[3], 1.0)}
    assert all(sample.match is None and not sample.predicted_topics for sample in samples), (
        "the stage has no such heads"
    )


def test_samples_are_the_same_each_time_and_change_nothing_of_the_model(small_shards: Path) -> None:
    reader = Reader(open_set(small_shards / "phrase" / "val"))
    model = a_learner(reader, "p")
    state = torch.get_rng_state()
    first, second = (sample_text(sampled(reader, model, "p", [1, 4])) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pairs_are_spread_over_the_set(small_shards: Path) -> None:
    reader = Reader(open_set(small_shards / "token" / "val"))
    assert spread_pairs(reader, 4).tolist() == [0, 4, 8, 12]
    assert spread_pairs(reader, 99).tolist() == list(range(16))


def test_a_text_shows_hidden_pieces_guesses_topics_and_match() -> None:
    assert marked_text(SAMPLE) == "a skate**[board]** er"
    assert sample_text([SAMPLE]).splitlines() == [
        "**coco-7** a skate**[board]** er",
        "",
        "| hidden | right | guesses |",
        "|---|---|---|",
        r"| word | \#\#board ✓ | \#\#board 0.75, dog 0.12 |",
        "| region 0 | man | cat 0.50 |",
        "",
        "topics: none; right: man",
        "",
        "text and image match: 0.25",
    ]


def test_words_of_the_data_are_escaped() -> None:
    assert plain("<b> a|b *x* [y]_ __a_b__") == r"&lt;b> a&#124;b \*x\* \[y\]\_ \_\_a_b\_\_"


def test_a_picture_is_reddest_where_the_word_attends_most() -> None:
    assert chosen_words(SAMPLE) == [3, 2, 4]
    pixels = draw_sample(dataclasses.replace(SAMPLE, labels=("", "")))
    assert pixels.dtype == np.uint8
    left, top, width, height = 480 + 2 * 12, 18 + 12, 280, 140  # the first word's panel
    panel = pixels[top : top + height, left : left + width].astype(int)
    redness = panel[..., 0] - panel[..., 2]
    assert redness[height // 2 + 5, width // 4] > redness[height // 4 + 8, 3 * width // 4] > 0
    assert redness[3 * height // 4, 3 * width // 4] <= 0, "no region lies there"
