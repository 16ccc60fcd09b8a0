"""Target positions are known before anything is encoded, on the host too; no score reads another state."""

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
from msp_ds.tasks.targets import PADDING_STEP, REGIONS, TEXT, count_targets, targets_of
from msp_ds.tasks.task import corrupt

ALL = list(TASKS.values())


def poisoned(example: Example, name: str) -> Encoded:
    """The states of an example, not a number except at the targets of the task."""
    task, states = TASKS[name], {"text": example.states.text, "regions": example.states.regions}
    targets = {"text": task.text_targets, "regions": task.region_targets}
    for part, whole in states.items():
        of_part = targets[part]
        mask = torch.zeros(whole.shape[:2]).bool() if of_part is None else of_part(example.corrupted, example.context)
        states[part] = whole.detach().masked_fill(~mask[..., None], torch.nan)
    return Encoded(pair=example.states.pair.detach(), **states)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_score_reads_the_targets_of_its_task_and_nothing_else(name: str) -> None:
    for example in examples(24):
        alone = dataclasses.replace(example, states=poisoned(example, name))
        assert alone.fast_loss(name).item() == example.fast_loss(name).item()


def padded(example: Example) -> Example:
    padded_counts = count_targets(example.clean, ALL, example.context)
    return dataclasses.replace(example, context=dataclasses.replace(example.context, padded_counts=padded_counts))


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
def test_padding_of_the_targets_changes_nothing(name: str) -> None:
    for example in examples(24):
        loss, metrics, gradients = scored(example, name)
        padded_loss, padded_metrics, padded_gradients = scored(padded(example), name)
        torch.testing.assert_close(padded_loss, loss, rtol=1e-9, atol=1e-12)
        for key, numbers in metrics.items():
            assert padded_metrics[key] == pytest.approx(numbers, rel=1e-9), key
        for found, expected in zip(padded_gradients, gradients, strict=True):
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_padded_counts_suffice_and_take_few_values() -> None:
    batch, sizes = many_pairs(200), set()
    for epoch in range(5):
        this_epoch = context(epoch=epoch)
        padded_counts, corrupted = count_targets(batch, ALL, this_epoch), corrupt(batch, ALL, this_epoch)
        together = targets_of(ALL, corrupted, this_epoch)
        masks = {TEXT: together.text.mask, REGIONS: together.regions.mask, "mlm": corrupted.corruption.masked_tokens}
        masks |= {"mrfr": corrupted.corruption.masked_regions, "ifrs": corrupted.corruption.shuffled_regions}
        for name, mask in masks.items():
            assert 0 <= padded_counts[name] - int(mask.sum()) < PADDING_STEP, name
        sizes.add(padded_counts["mlm"])
    assert len(sizes) <= 3  # of about 300 masked pieces, 16 more or less


def test_features_need_not_be_on_the_host_that_counts() -> None:
    batch = many_pairs(20)
    away = dataclasses.replace(
        batch, features=batch.features.to("meta"), random_features=batch.random_features.to("meta")
    )
    assert count_targets(away, ALL, context()) == count_targets(batch, ALL, context())


def test_all_regions_are_counted_where_all_are_targets() -> None:
    batch = a_batch()
    padded_counts = count_targets(batch, [TASKS["moc"]], context(moc_target="all"))
    assert padded_counts == {TEXT: 0, REGIONS: 64, "moc": 64}  # 15 regions


def test_benchmarks_have_no_target_positions() -> None:
    batch = a_batch()
    for part in BENCHMARKS.values():
        targets = targets_of(part.tasks, batch, context())
        assert not targets.text.mask.any()
        assert not targets.regions.mask.any()


def test_each_stage_has_targets_in_text_and_regions() -> None:
    batch, options = a_batch(), {"token_probability": 0.5, "region_probability": 0.5}
    for stage in curriculum("tps"):
        corrupted = corrupt(batch, stage.tasks, context(**options))
        targets = targets_of(stage.tasks, corrupted, context(**options))
        assert torch.equal(targets.text.mask, corrupted.corruption.masked_tokens)
        assert torch.equal(
            targets.regions.mask, corrupted.corruption.masked_regions | corrupted.corruption.shuffled_regions
        )
        assert targets.regions.mask.any()


def test_pairs_that_are_dropped_have_no_targets() -> None:
    batch = a_batch()
    corruption = dataclasses.replace(batch.corruption, matched=torch.tensor([True, False, True]))
    changes: dict[str, Any] = {"token_probability": 1.0, "mismatch_losses": "drop"}
    corrupted = corrupt(dataclasses.replace(batch, corruption=corruption), ALL, context(**changes))
    targets = targets_of([TASKS["mlm"]], corrupted, context(**changes))
    assert targets.text.mask.sum(1).tolist() == [6, 0, 5]  # 8 and 7 pieces less [CLS] and [SEP]
