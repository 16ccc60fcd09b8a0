"""Regions are masked, 15 % of them, 80/10/10; their boxes never change; random_regions fill the replaced ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import a_batch, context, many_pairs
from torch import Tensor

from msp_ds.records import Batch
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import NUM_RANDOM_REGIONS, choose_regions, mask_regions
from msp_ds.tasks.task import corrupt, num_random_regions


def fates(batch: Batch, corrupted: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """bool [B, R] each: hidden, replaced, kept among the masked; for batches of `many_pairs`."""
    chosen, feature = corrupted.corruption.masked_regions, corrupted.features[..., 0]
    return chosen & (feature == 0), chosen & (feature == -1), chosen & (feature == batch.features[..., 0])


def test_mrfr_and_moc_have_the_same_regions_masked_once() -> None:
    batch = many_pairs(50)
    both = corrupt(batch, [TASKS["mrfr"], TASKS["moc"]], context())
    assert torch.equal(both.features, corrupt(batch, [TASKS["moc"]], context()).features)


def test_tokens_and_regions_are_masked_independently() -> None:
    corrupted = corrupt(
        many_pairs(3000, num_tokens=36),
        [TASKS["mlm"], TASKS["moc"]],
        context(token_probability=0.5, region_probability=0.5),
    )
    tokens, regions = corrupted.corruption.masked_tokens[:, 1:-1], corrupted.corruption.masked_regions[:, 1:-1]
    assert (tokens == regions).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / (3000 * 34) ** 0.5)


def test_boxes_text_and_labels_never_change() -> None:
    batch = a_batch()
    corrupted = mask_regions(batch, context(region_probability=1.0))
    for name in (
        "boxes",
        "token_ids",
        "region_mask",
        "object_ids",
        "object_scores",
        "attribute_ids",
        "random_features",
    ):
        assert getattr(corrupted, name) is getattr(batch, name)


def test_the_clean_batch_stays_as_it_was() -> None:
    batch = a_batch()
    before = batch.features.clone()
    mask_regions(batch, context(region_probability=1.0))
    assert torch.equal(batch.features, before)


def test_slots_beyond_the_last_region_are_never_masked() -> None:
    batch = a_batch(counts=(6, 4, 1), num_regions=9)
    corrupted = mask_regions(batch, context(region_probability=1.0))
    assert torch.equal(corrupted.corruption.masked_regions, batch.region_mask)
    assert not corrupted.features[~batch.region_mask].any()


def test_fifteen_percent_are_masked() -> None:
    fraction = choose_regions(many_pairs(2000), context()).double().mean().item()
    assert fraction == pytest.approx(0.15, abs=0.0054)  # 72 000 regions: four standard errors


def test_eighty_percent_become_zeros_ten_random_regions_and_ten_stay() -> None:
    batch = many_pairs(2000)
    corrupted = mask_regions(batch, context())
    hidden, replaced, kept = fates(batch, corrupted)
    number = corrupted.corruption.masked_regions.sum().item()  # about 10 800: four standard errors of 0.8 are 0.0154
    assert hidden.sum().item() / number == pytest.approx(0.8, abs=0.0154)
    assert replaced.sum().item() / number == pytest.approx(0.1, abs=0.0116)
    assert (hidden | replaced | kept).sum().item() == number
    untouched = ~corrupted.corruption.masked_regions
    assert torch.equal(corrupted.features[untouched], batch.features[untouched])


def test_the_k_th_replaced_region_takes_the_k_th_random_region_and_after_four_they_repeat() -> None:
    batch = many_pairs(300)
    random_regions = -torch.arange(1.0, 5.0)[None, :, None].expand(300, -1, 1).half()
    corrupted = mask_regions(
        dataclasses.replace(batch, random_features=random_regions), context(region_probability=1.0)
    )
    longest = 0
    for features in corrupted.features[..., 0].tolist():
        found = [-value for value in features if value < 0]
        assert found == [1 + place % 4 for place in range(len(found))]
        longest = max(longest, len(found))
    assert longest > 4


def test_only_masking_regions_needs_random_regions() -> None:
    wanted = {name: num_random_regions([task]) for name, task in TASKS.items()}
    assert wanted == {name: NUM_RANDOM_REGIONS if name in ("mrfr", "moc") else 0 for name in TASKS}
    assert num_random_regions(list(TASKS.values())) == NUM_RANDOM_REGIONS
    assert num_random_regions([]) == 0


def test_tasks_that_need_no_random_regions_work_without_any() -> None:
    batch = dataclasses.replace(many_pairs(3), random_features=torch.empty(3, 0, 1).half())
    corrupted = corrupt(
        batch, [TASKS["mlm"], TASKS["ifrs"], TASKS["tits"]], context(token_probability=0.5, ifrs_probability=0.5)
    )
    assert corrupted.corruption.masked_tokens.any()
