"""Regions are masked, 15 % of them, 80/10/10; their boxes never change; strays fill the replaced ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import a_batch, context, many_pairs
from torch import Tensor

from msp_ds.records import Batch
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import NUM_STRAYS, choose_regions, mask_regions
from msp_ds.tasks.task import num_strays, pose


def fates(batch: Batch, posed: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """bool [B, R] each: hidden, replaced, kept among the masked; for batches of `many_pairs`."""
    chosen, feature = posed.marks.masked_regions, posed.features[..., 0]
    return chosen & (feature == 0), chosen & (feature == -1), chosen & (feature == batch.features[..., 0])


def test_mrfr_and_moc_ask_about_the_same_regions_masked_once() -> None:
    batch = many_pairs(50)
    both = pose(batch, [TASKS["mrfr"], TASKS["moc"]], context())
    assert torch.equal(both.features, pose(batch, [TASKS["moc"]], context()).features)


def test_tokens_and_regions_are_masked_independently() -> None:
    posed = pose(
        many_pairs(3000, num_tokens=36), [TASKS["mlm"], TASKS["moc"]], context(token_share=0.5, region_share=0.5)
    )
    tokens, regions = posed.marks.masked_tokens[:, 1:-1], posed.marks.masked_regions[:, 1:-1]
    assert (tokens == regions).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / (3000 * 34) ** 0.5)


def test_boxes_text_and_labels_never_change() -> None:
    batch = a_batch()
    posed = mask_regions(batch, context(region_share=1.0))
    for name in ("boxes", "token_ids", "region_mask", "object_ids", "object_scores", "attribute_ids", "stray_features"):
        assert getattr(posed, name) is getattr(batch, name)


def test_the_clean_batch_stays_as_it_was() -> None:
    batch = a_batch()
    before = batch.features.clone()
    mask_regions(batch, context(region_share=1.0))
    assert torch.equal(batch.features, before)


def test_slots_beyond_the_last_region_are_never_masked() -> None:
    batch = a_batch(counts=(6, 4, 1), num_regions=9)
    posed = mask_regions(batch, context(region_share=1.0))
    assert torch.equal(posed.marks.masked_regions, batch.region_mask)
    assert not posed.features[~batch.region_mask].any()


def test_fifteen_percent_are_masked() -> None:
    share = choose_regions(many_pairs(2000), context()).double().mean().item()
    assert share == pytest.approx(0.15, abs=0.0054)  # 72 000 regions: four standard errors


def test_eighty_percent_become_zeros_ten_strays_and_ten_stay() -> None:
    batch = many_pairs(2000)
    posed = mask_regions(batch, context())
    hidden, replaced, kept = fates(batch, posed)
    number = posed.marks.masked_regions.sum().item()  # about 10 800: four standard errors of 0.8 are 0.0154
    assert hidden.sum().item() / number == pytest.approx(0.8, abs=0.0154)
    assert replaced.sum().item() / number == pytest.approx(0.1, abs=0.0116)
    assert (hidden | replaced | kept).sum().item() == number
    untouched = ~posed.marks.masked_regions
    assert torch.equal(posed.features[untouched], batch.features[untouched])


def test_the_k_th_replaced_region_takes_the_k_th_stray_and_after_four_they_repeat() -> None:
    batch = many_pairs(300)
    strays = -torch.arange(1.0, 5.0)[None, :, None].expand(300, -1, 1).half()
    posed = mask_regions(dataclasses.replace(batch, stray_features=strays), context(region_share=1.0))
    longest = 0
    for features in posed.features[..., 0].tolist():
        found = [-value for value in features if value < 0]
        assert found == [1 + place % 4 for place in range(len(found))]
        longest = max(longest, len(found))
    assert longest > 4


def test_only_masking_regions_needs_strays() -> None:
    wanted = {name: num_strays([task]) for name, task in TASKS.items()}
    assert wanted == {name: NUM_STRAYS if name in ("mrfr", "moc") else 0 for name in TASKS}
    assert num_strays(list(TASKS.values())) == NUM_STRAYS
    assert num_strays([]) == 0


def test_tasks_that_need_no_strays_work_without_any() -> None:
    batch = dataclasses.replace(many_pairs(3), stray_features=torch.empty(3, 0, 1).half())
    posed = pose(batch, [TASKS["mlm"], TASKS["ifrs"], TASKS["tits"]], context(token_share=0.5, ifrs_share=0.5))
    assert posed.marks.masked_tokens.any()
