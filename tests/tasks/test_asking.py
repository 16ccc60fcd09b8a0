"""What tasks ask about is known before anything is encoded, on the host too: no score reads another state."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from reference.comparison import Example, examples
from tiny import a_batch, context, many_pairs
from torch import Tensor

from msp_ds.curriculum import BENCHMARKS, curriculum
from msp_ds.records import Encoded
from msp_ds.tasks import TASKS
from msp_ds.tasks.asking import PADDING_STEP, REGIONS, TEXT, count_targets, targets_of
from msp_ds.tasks.task import corrupt

ALL = list(TASKS.values())


def poisoned(example: Example, name: str) -> Encoded:
    """The states of an example, not a number wherever the task does not ask."""
    task, states = TASKS[name], {"text": example.states.text, "regions": example.states.regions}
    asks = {"text": task.text_targets, "regions": task.region_targets}
    for part, whole in states.items():
        ask = asks[part]
        asked = torch.zeros(whole.shape[:2]).bool() if ask is None else ask(example.corrupted, example.context)
        states[part] = whole.detach().masked_fill(~asked[..., None], torch.nan)
    return Encoded(pair=example.states.pair.detach(), **states)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_score_reads_what_its_task_asks_for_and_nothing_else(name: str) -> None:
    for example in examples(24):
        alone = dataclasses.replace(example, states=poisoned(example, name))
        assert alone.fast_loss(name).item() == example.fast_loss(name).item()


def with_rooms(example: Example) -> Example:
    rooms = count_targets(example.clean, ALL, example.context)
    return dataclasses.replace(example, context=dataclasses.replace(example.context, rooms=rooms))


def scored(example: Example, name: str) -> tuple[Tensor, dict[str, list[float]], list[Tensor | None]]:
    """Loss, metrics and gradients: of states and of the heads."""
    example = dataclasses.replace(example, states=_leaves(example.states))
    score = TASKS[name].score(example.heads, example.states, example.clean, example.corrupted, example.context)
    example.heads.zero_grad()
    score.loss.backward()
    leaves = [*_parts(example.states), *example.heads.parameters()]
    metrics = {key: [metric.total.item(), metric.count.item()] for key, metric in score.metrics.items()}
    return score.loss.detach(), metrics, [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves]


def _parts(states: Encoded) -> list[Tensor]:
    return [states.text, states.regions, states.pair]


def _leaves(states: Encoded) -> Encoded:
    text, regions, pair = (part.detach().requires_grad_() for part in _parts(states))
    return Encoded(text=text, regions=regions, pair=pair)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_list_with_room_to_spare_changes_nothing(name: str) -> None:
    for example in examples(24):
        loss, metrics, gradients = scored(example, name)
        roomy_loss, roomy_metrics, roomy_gradients = scored(with_rooms(example), name)
        torch.testing.assert_close(roomy_loss, loss, rtol=1e-9, atol=1e-12)
        for key, numbers in metrics.items():
            assert roomy_metrics[key] == pytest.approx(numbers, rel=1e-9), key
        for found, expected in zip(roomy_gradients, gradients, strict=True):
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_rooms_suffice_and_are_few() -> None:
    batch, sizes = many_pairs(200), set()
    for epoch in range(5):
        asked = context(epoch=epoch)
        rooms, corrupted = count_targets(batch, ALL, asked), corrupt(batch, ALL, asked)
        together = targets_of(ALL, corrupted, asked)
        wanted = {TEXT: together.text.where, REGIONS: together.regions.where, "mlm": corrupted.corruption.masked_tokens}
        wanted |= {"mrfr": corrupted.corruption.masked_regions, "ifrs": corrupted.corruption.shuffled_regions}
        for name, where in wanted.items():
            assert 0 <= rooms[name] - int(where.sum()) < PADDING_STEP, name
        sizes.add(rooms["mlm"])
    assert len(sizes) <= 3  # of about 300 masked pieces, 16 more or less


def test_features_need_not_be_where_the_rooms_are_counted() -> None:
    batch = many_pairs(20)
    away = dataclasses.replace(
        batch, features=batch.features.to("meta"), random_features=batch.random_features.to("meta")
    )
    assert count_targets(away, ALL, context()) == count_targets(batch, ALL, context())


def test_a_task_that_asks_about_everything_has_room_for_everything() -> None:
    batch = a_batch()
    rooms = count_targets(batch, [TASKS["moc"]], context(moc_target="all"))
    assert rooms == {TEXT: 0, REGIONS: 64, "moc": 64}  # 15 regions


def test_benchmarks_ask_about_the_pair_alone() -> None:
    batch = a_batch()
    for part in BENCHMARKS.values():
        asked = targets_of(part.tasks, batch, context())
        assert not asked.text.where.any()
        assert not asked.regions.where.any()


def test_each_stage_asks_about_text_and_regions() -> None:
    batch, options = a_batch(), {"token_probability": 0.5, "region_probability": 0.5}
    for stage in curriculum("tps"):
        corrupted = corrupt(batch, stage.tasks, context(**options))
        asked = targets_of(stage.tasks, corrupted, context(**options))
        assert torch.equal(asked.text.where, corrupted.corruption.masked_tokens)
        assert torch.equal(
            asked.regions.where, corrupted.corruption.masked_regions | corrupted.corruption.shuffled_regions
        )
        assert asked.regions.where.any()


def test_pairs_that_are_dropped_are_not_asked_about() -> None:
    batch = a_batch()
    corruption = dataclasses.replace(batch.corruption, matched=torch.tensor([True, False, True]))
    changes: dict[str, Any] = {"token_probability": 1.0, "mismatch_losses": "drop"}
    corrupted = corrupt(dataclasses.replace(batch, corruption=corruption), ALL, context(**changes))
    asked = targets_of([TASKS["mlm"]], corrupted, context(**changes))
    assert asked.text.where.sum(1).tolist() == [6, 0, 5]  # 8 and 7 pieces less [CLS] and [SEP]
