"""IFRS shuffles whole triplets of neighbours, never a masked or absent region, and moves features, not boxes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import a_batch, context, images, many_pairs, rows
from torch import Tensor

from msp_ds.records import Batch
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import choose_regions, mask_regions, shuffle_regions
from msp_ds.tasks.task import corrupt

NO_MASKS = {"region_probability": 0.0}
OFTEN = {"ifrs_probability": 0.5}


def triplets(batch: Batch) -> list[tuple[int, tuple[int, int, int]]]:
    """(first slot, order within the triplet) of every shuffled triplet; fails unless slots move in threes."""
    found = []
    for marked, order in zip(
        batch.corruption.shuffled_regions.tolist(), batch.corruption.region_order.tolist(), strict=True
    ):
        slot = 0
        while slot < len(marked):
            if not marked[slot]:
                assert order[slot] == slot
                slot += 1
                continue
            assert marked[slot : slot + 3] == [True] * 3
            inner = tuple(source - slot for source in order[slot : slot + 3])
            assert sorted(inner) == [0, 1, 2]
            found.append((slot, inner))
            slot += 3
    return found


def expected_triplets(num_regions: int, probability: float) -> float:
    """Mean number of hits of a left-to-right scan that skips three slots after a hit."""
    means = [0.0, 0.0, 0.0]
    for _ in range(3, num_regions + 1):
        means.append(probability * (1 + means[-3]) + (1 - probability) * means[-1])
    return means[num_regions]


def brute_force(batch: Batch, probability: float, stride: int, *, chances: Tensor, allowed: Tensor) -> list[set[int]]:
    """Starts of every image by a walk along its slots."""
    starts = []
    for row, free in zip(chances.tolist(), allowed.tolist(), strict=True):
        mine, slot = set(), 0
        while slot + 3 <= len(row):
            if slot % stride == 0 and all(free[slot : slot + 3]) and row[slot] < probability:
                mine.add(slot)
                slot += 3
            else:
                slot += 1
        starts.append(mine)
    return starts


@pytest.mark.parametrize("choice", ["scan", "stride3"])
def test_regions_are_shuffled_in_threes_that_follow_each_other_and_never_overlap(choice: str) -> None:
    corrupted = shuffle_regions(many_pairs(500), context(ifrs_choice=choice, **OFTEN))
    assert len(triplets(corrupted)) > 500


def test_the_identity_is_never_drawn_and_the_other_five_orders_evenly() -> None:
    found = triplets(shuffle_regions(many_pairs(1000), context(**NO_MASKS, **OFTEN)))
    counts = {order: sum(inner == order for _, inner in found) for order in {inner for _, inner in found}}
    assert set(counts) == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    even = len(found) / 5
    assert sum((count - even) ** 2 / even for count in counts.values()) < 18.47  # 99.9 % of chi-square, 4 degrees


@pytest.mark.parametrize("choice", ["scan", "stride3"])
def test_the_starts_are_those_of_a_walk_from_left_to_right(choice: str) -> None:
    batch, ctx = many_pairs(300), context(ifrs_choice=choice, **OFTEN)
    corrupted = shuffle_regions(batch, ctx)
    chances = ctx.draw(batch.keys, "triplet chosen", 36)
    stride = {"scan": 1, "stride3": 3}[choice]
    wanted = brute_force(batch, 0.5, stride, chances=chances, allowed=~choose_regions(batch, ctx))
    found = [{slot for slot, _ in triplets(rows(corrupted, [place]))} for place in range(300)]
    assert found == wanted


def test_a_scan_shuffles_one_triplet_and_a_half_an_image() -> None:
    found = triplets(shuffle_regions(many_pairs(4000), context(**NO_MASKS)))
    assert expected_triplets(36, 0.05) == pytest.approx(1.55, abs=0.005)  # as simulated
    assert len(found) / 4000 == pytest.approx(expected_triplets(36, 0.05), abs=0.08)


def test_a_scan_leaves_seventeen_and_a_half_percent_of_the_images_alone() -> None:
    corrupted = shuffle_regions(many_pairs(4000), context(**NO_MASKS))
    untouched = (~corrupted.corruption.shuffled_regions.any(1)).double().mean().item()
    assert untouched == pytest.approx(0.95**34, abs=0.024)  # 0.175; four standard errors


def test_strides_of_three_shuffle_six_tenths_of_a_triplet_an_image() -> None:
    found = triplets(shuffle_regions(many_pairs(4000), context(ifrs_choice="stride3", **NO_MASKS)))
    assert all(slot % 3 == 0 for slot, _ in found)
    assert len(found) / 4000 == pytest.approx(12 * 0.05, abs=0.048)  # four standard errors


@pytest.mark.parametrize("choice", ["scan", "stride3"])
def test_masked_and_absent_regions_are_in_no_triplet(choice: str) -> None:
    counts = [1 + place % 36 for place in range(360)]
    batch = a_batch([5] * 360, counts, **images(counts, num_regions=36))
    corrupted = corrupt(batch, [TASKS["ifrs"], TASKS["moc"]], context(ifrs_choice=choice, **OFTEN))
    assert triplets(corrupted)
    assert not (
        corrupted.corruption.shuffled_regions & (corrupted.corruption.masked_regions | ~batch.region_mask)
    ).any()


@pytest.mark.parametrize("num_regions", [1, 2])
def test_images_of_fewer_than_three_regions_are_left_alone(num_regions: int) -> None:
    batch = a_batch((5, 5), (num_regions, num_regions))
    corrupted = shuffle_regions(batch, context(ifrs_probability=1.0, **NO_MASKS))
    assert torch.equal(corrupted.features, batch.features)


def test_three_regions_make_one_triplet() -> None:
    corrupted = shuffle_regions(many_pairs(20, num_regions=3), context(ifrs_probability=1.0, **NO_MASKS))
    assert [slot for slot, _ in triplets(corrupted)] == [0] * 20


def test_a_slot_holds_the_feature_that_region_order_names() -> None:
    batch = many_pairs(100)  # slot i holds the feature i + 1
    corrupted = shuffle_regions(batch, context(**OFTEN))
    assert torch.equal(corrupted.features[..., 0].long(), corrupted.corruption.region_order + 1)


def test_boxes_text_and_labels_stay() -> None:
    batch = many_pairs(20)
    corrupted = shuffle_regions(batch, context(**OFTEN))
    for name in ("boxes", "token_ids", "word_positions", "object_ids", "attribute_ids", "region_mask"):
        assert getattr(corrupted, name) is getattr(batch, name)


def test_boxes_move_with_their_features_on_request() -> None:
    batch = many_pairs(20)
    corrupted = shuffle_regions(batch, context(ifrs_boxes="move", **OFTEN))
    for place, order in enumerate(corrupted.corruption.region_order):
        assert torch.equal(corrupted.boxes[place], batch.boxes[place][order])
    assert not torch.equal(corrupted.boxes, batch.boxes)


def test_shuffling_and_masking_do_not_disturb_each_other() -> None:
    batch, ctx = many_pairs(50), context(**OFTEN)
    shuffled_first = mask_regions(shuffle_regions(batch, ctx), ctx)
    masked_first = shuffle_regions(mask_regions(batch, ctx), ctx)
    corrupted = corrupt(batch, [TASKS["moc"], TASKS["ifrs"]], ctx)
    assert torch.equal(corrupted.features, shuffled_first.features)
    assert torch.equal(corrupted.features, masked_first.features)


def test_the_clean_batch_stays_as_it_was() -> None:
    batch = many_pairs(5)
    before = dataclasses.replace(batch, features=batch.features.clone())
    shuffle_regions(batch, context(ifrs_probability=1.0))
    assert torch.equal(batch.features, before.features)
    assert not batch.corruption.shuffled_regions.any()
