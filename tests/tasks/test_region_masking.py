"""Regions are masked by key and epoch alone; their boxes never change; strays fill the replaced ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import a_batch, context, many_pairs, rows
from torch import Tensor

from msp_ds.records import Batch
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import NUM_STRAYS, choose_regions, mask_regions
from msp_ds.tasks.task import num_strays, pose


def fates(batch: Batch, posed: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """bool [B, R] each: hidden, replaced, kept among the masked; for batches of `many_pairs`."""
    chosen, feature = posed.marks.masked_regions, posed.features[..., 0]
    return chosen & (feature == 0), chosen & (feature == -1), chosen & (feature == batch.features[..., 0])


def test_the_mask_does_not_depend_on_the_place_in_the_batch() -> None:
    batch, asked = a_batch(counts=(6, 6, 6)), context(region_share=0.5)
    together, turned = mask_regions(batch, asked), mask_regions(rows(batch, [2, 0, 1]), asked)
    assert torch.equal(turned.features, together.features[[2, 0, 1]])
    assert torch.equal(turned.marks.masked_regions, together.marks.masked_regions[[2, 0, 1]])


def test_the_mask_does_not_depend_on_the_number_of_slots() -> None:
    narrow, wide = a_batch(counts=(6, 5, 4)), a_batch(counts=(6, 5, 4), num_regions=11)
    asked = context(region_share=0.5)
    assert torch.equal(choose_regions(wide, asked)[:, :6], choose_regions(narrow, asked))


@pytest.mark.parametrize("tasks", [["mrfr"], ["moc"], ["mlm", "mrfr", "moc", "ifrs"], ["ifrs", "moc"], list(TASKS)])
def test_masks_and_what_lies_there_do_not_depend_on_the_other_tasks(tasks: list[str]) -> None:
    batch = many_pairs(200)
    alone = mask_regions(batch, context(ifrs_share=0.5))
    among = pose(batch, [TASKS[name] for name in tasks], context(ifrs_share=0.5))
    chosen = alone.marks.masked_regions
    assert torch.equal(among.marks.masked_regions, chosen)
    assert torch.equal(among.features[chosen], alone.features[chosen])


def test_mrfr_and_moc_ask_about_the_same_regions_masked_once() -> None:
    batch = many_pairs(50)
    both = pose(batch, [TASKS["mrfr"], TASKS["moc"]], context())
    assert torch.equal(both.features, pose(batch, [TASKS["moc"]], context()).features)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}])
def test_another_epoch_or_seed_masks_anew(change: dict[str, int]) -> None:
    batch = many_pairs(50)
    assert not torch.equal(choose_regions(batch, context()), choose_regions(batch, context(**change)))


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
