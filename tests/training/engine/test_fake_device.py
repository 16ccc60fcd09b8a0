"""Every stage, benchmark and encoder runs on a device without values: nothing is on the CPU, nothing is waited for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from batches import tensors_of
from fake_device import DEVICE, Autocast, OnDevice
from fake_gpu import pinned
from small_world import write_benchmarks
from torch import Tensor

from msp_ds.curriculum import BENCHMARKS, curriculum
from msp_ds.data.loading.reader import Reader
from msp_ds.evaluation.answer_evaluation import Answerer
from msp_ds.evaluation.matching import Matcher, image_states, texts_of_set
from msp_ds.evaluation.ranking import PairScorer, choose_pool
from msp_ds.model.attention_weights import encode_with_attention
from msp_ds.records import Batch
from msp_ds.tasks.targets import count_targets
from msp_ds.training.assembly.building import build_pretraining_model
from msp_ds.training.assembly.inputs import build_context, open_stage_data
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.guards.finite import zeroed
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config
from msp_ds.training.pretraining_model import PretrainingModel
from msp_ds.training.validation import Meter

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"))
PRESETS = ("tiny", "tiny-lxmert", "tiny-single-stream")
HALVES = dict(zip(PRESETS, (torch.float16, torch.bfloat16, torch.float16), strict=True))
"""One of the two for each, so that every part meets both."""
PARTS = [("t", 0), ("p", 0), ("s", 0), *(("t+p+s", number) for number in range(3)), *((name, 0) for name in BENCHMARKS)]
every_part = pytest.mark.parametrize(("spelling", "number"), PARTS)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all stages and benchmarks."""
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@cache
def feed_of(shards: Path, spelling: str) -> BatchLoader:
    """The feed of a stage on the host."""
    stage, config = curriculum(spelling)[0], new_config(RunOptions(shards=str(shards), curriculum=spelling))
    data = open_stage_data(shards, stage)
    return BatchLoader(stage.parts, [Reader(one) for one in data.train], build_context(config, data), ALONE)


@cache
def batches_of(shards: Path, spelling: str, number: int) -> list[tuple[Batch, dict[str, int]]]:
    """Of 1 and 5 pairs of a part, as its tasks read them, with their counts of what is asked."""
    loader = feed_of(shards, spelling)
    batches = [loader.read(number, torch.arange(size), epoch=0) for size in (1, 5)]
    return [(batch, count_targets(batch, loader.parts[number].tasks, loader.context)) for batch in batches]


def learner_of(shards: Path, spelling: str, preset: str) -> PretrainingModel:
    """A fresh one with dropout, of as few layers as have all kinds, on the device."""
    config = new_config(RunOptions(shards=str(shards), curriculum=spelling, preset=preset))
    fewer = {"num_layers": 2, "language_layers": min(config.model.language_layers, 1), "dropout": 0.1}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **fewer))
    context = feed_of(shards, spelling).context.to(DEVICE)
    return build_pretraining_model(config, curriculum(spelling)[0], context, None).to(DEVICE)


@pytest.mark.parametrize(
    ("spelling", "number", "preset"),
    # Of a mix the batches are those of its parts; the heads that a part does not read are the same whatever encodes.
    [(*part, preset) for part in PARTS for preset in (PRESETS if part[0] != "t+p+s" else PRESETS[:1])],
)
def test_a_step_stays_on_the_device(shards: Path, spelling: str, number: int, preset: str) -> None:
    """Corruption, encoder, scores, sums and gradients; forward in 16 bits too, as autocast has it."""
    tasks, meter, found = curriculum(spelling)[0].parts[number].tasks, Meter(), []
    batches = batches_of(shards, spelling, number)
    kinds = [None] if spelling == "t+p+s" else [HALVES[preset], None]
    model = learner_of(shards, spelling, preset)
    with OnDevice():
        for (batch, padded_counts), kind in zip(batches[-len(kinds) :], kinds, strict=True):
            with Autocast(kind) if kind else nullcontext():
                losses = model(batch.to(DEVICE), tasks, 0, padded_counts)
            meter.add({**losses.metrics, **zeroed(losses.metrics)})
            found.append(losses.total.isfinite())
        losses.total.backward()
        found.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    found += [tensor for metric in meter.metrics.values() for tensor in tensors_of(metric).values()]
    found += [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert {tensor.device for tensor in found} == {DEVICE}
    assert losses.total.dtype == torch.float32


MISTAKES: dict[str, Callable[[Tensor], Tensor]] = {
    "a tensor on the CPU": lambda states: states + torch.ones(states.shape[-1]),
    "a number on the host": lambda states: states * states.sum().item(),
    "a choice by values": lambda states: states if states.sum() > 0 else -states,
    "an index by values": lambda states: states[states[:, 0] > 0],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_head_is_found(shards: Path, mistake: str) -> None:
    (batch, padded_counts), *_ = batches_of(shards, "s", 0)
    model = learner_of(shards, "s", "tiny")
    model.heads["match"].register_forward_pre_hook(lambda _, arguments: (MISTAKES[mistake](*arguments),))
    with OnDevice(), pytest.raises(AssertionError, match=r"^aten\..* (waits for the device|mixes tensors)"):
        model(batch.to(DEVICE), curriculum("s")[0].tasks, 0, padded_counts)


@every_part
def test_no_element_of_a_batch_shares_its_memory(shards: Path, spelling: str, number: int) -> None:
    for batch, _ in batches_of(shards, spelling, number):
        tensors = {name: tensor for name, tensor in tensors_of(batch).items() if tensor.numel()}
        for name, tensor in tensors.items():
            assert tensor.is_contiguous(), name
            assert torch.equal(pinned(tensor), tensor), name
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == len(tensors)


def test_memory_that_elements_share_cannot_be_pinned() -> None:
    """As torch has it: its pinned copy has the same strides."""
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor refers to a single memory"):
        pinned(torch.arange(3).expand(2, 3))


@pytest.mark.parametrize("preset", PRESETS)
def test_answers_and_attention_come_from_the_device(shards: Path, preset: str) -> None:
    for task in ("vqa", "gqa", "nlvr2"):
        (reader,), model = feed_of(shards, task).readers, learner_of(shards, task, preset)
        (part,) = curriculum(task)[0].parts
        answerer = Answerer(model.backbone, model.heads, part.tasks[0], feed_of(shards, task).context)
        with OnDevice(reads=True):
            assert answerer.logits(reader, torch.arange(3)).device.type == "cpu"
        with OnDevice():
            encoded, attention = encode_with_attention(model.backbone, batches_of(shards, task, 0)[1][0].to(DEVICE))
        assert encoded.pair.device == attention.device == DEVICE


@pytest.mark.parametrize("preset", PRESETS)
def test_pairs_are_scored_on_the_device(shards: Path, preset: str) -> None:
    (reader,), model = feed_of(shards, "retrieval").readers, learner_of(shards, "retrieval", preset)
    scorer = PairScorer(model.backbone, model.heads["match"])  # type: ignore[arg-type]
    scorer._arithmetic = lambda: Autocast(torch.bfloat16)  # type: ignore[assignment,return-value]  # torch has none here
    matcher = Matcher(model.backbone, model.heads["match"], reader.read_images)  # type: ignore[arg-type]
    with OnDevice(reads=True):
        margins = scorer.scores(reader, choose_pool(reader, num_images=3))
        scores = matcher.scores(texts_of_set(reader, torch.arange(4)), torch.arange(3))
        states = image_states(model.backbone, reader.read_images, torch.arange(reader.num_images))
    assert {one.dtype for one in (margins, scores, states)} == {torch.float32}
    assert {one.device.type for one in (margins, scores, states)} == {"cpu"}
