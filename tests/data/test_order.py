"""An epoch is a shuffle of the pairs that neither the layout of the table nor the number of ranks can change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from msp_ds.chance import key_of
from msp_ds.data.order import Order, rank_slice
from msp_ds.errors import InputError


def some_keys(count: int, *, name: str = "pair") -> Tensor:
    return torch.tensor([key_of(f"{name} {number}") for number in range(count)])


def epoch_rows(order: Order, epoch: int) -> list[Tensor]:
    """The batches of one epoch, as rows of the only set."""
    size = order.batches_per_epoch
    return [order.batch(step).pairs for step in range(epoch * size, (epoch + 1) * size)]


def test_an_epoch_of_full_batches_holds_every_pair_once() -> None:
    order = Order([some_keys(96)], seed=1, batch_size=8)
    assert order.batches_per_epoch == 12
    for epoch in range(3):
        assert torch.cat(epoch_rows(order, epoch)).sort().values.tolist() == list(range(96))


def test_pairs_beyond_the_last_full_batch_wait_and_are_others_each_time() -> None:
    order = Order([some_keys(23)], seed=1, batch_size=5)
    waiting = set()
    for epoch in range(8):
        seen = torch.cat(epoch_rows(order, epoch)).tolist()
        assert len(seen) == len(set(seen)) == 20
        waiting.add(frozenset(range(23)) - frozenset(seen))
    assert len(waiting) > 1


def test_steps_count_on_over_the_epochs() -> None:
    order = Order([some_keys(12)], seed=1, batch_size=4)
    assert [order.batch(step).epoch for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_any_step_can_be_asked_for_first() -> None:
    forward, backward = (Order([some_keys(40)], seed=1, batch_size=4) for _ in range(2))
    steps = range(35)
    ahead = [forward.batch(step).pairs for step in steps]
    behind = [backward.batch(step).pairs for step in reversed(steps)][::-1]
    assert all(torch.equal(one, other) for one, other in zip(ahead, behind, strict=True))


def test_another_epoch_or_seed_is_another_order() -> None:
    order, other = (Order([some_keys(64)], seed=seed, batch_size=8) for seed in (1, 2))
    first = torch.cat(epoch_rows(order, 0))
    assert not torch.equal(first, torch.cat(epoch_rows(order, 1)))
    assert not torch.equal(first, torch.cat(epoch_rows(other, 0)))


def test_epochs_also_mix_who_sits_beside_whom() -> None:
    order = Order([some_keys(64)], seed=1, batch_size=8)
    first, second = ({frozenset(pairs.tolist()) for pairs in epoch_rows(order, epoch)} for epoch in (0, 1))
    assert not first & second


def test_pairs_of_a_batch_come_from_all_over_the_table() -> None:
    order = Order([some_keys(4000)], seed=1, batch_size=1000)
    for pairs in epoch_rows(order, 0):
        assert pairs.double().mean().item() == pytest.approx(1999.5, abs=4 * 4000 / 12**0.5 / 1000**0.5)


def test_another_layout_of_the_table_gives_the_same_keys_in_the_same_order() -> None:
    keys = some_keys(37)
    layout = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    straight, permuted = Order([keys], seed=1, batch_size=5), Order([keys[layout]], seed=1, batch_size=5)
    for step in range(20):
        assert torch.equal(keys[straight.batch(step).pairs], keys[layout][permuted.batch(step).pairs])
    assert not torch.equal(straight.batch(0).pairs, permuted.batch(0).pairs)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_a_batch_evenly_and_in_order(world_size: int) -> None:
    pairs = Order([some_keys(80)], seed=1, batch_size=16).batch(3).pairs
    slices = [rank_slice(pairs, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(part) for part in slices} == {16 // world_size}
    assert torch.equal(torch.cat(slices), pairs)


def mixed() -> Order:
    """Three sets of 40, 17 and 90 pairs: 10, 4 and 22 batches of four."""
    sets = [some_keys(count, name=name) for name, count in (("t", 40), ("p", 17), ("s", 90))]
    return Order(sets, seed=1, batch_size=4)


def test_a_mix_takes_batches_of_each_set_in_proportion() -> None:
    order = mixed()
    for epoch in range(2):
        parts = [order.batch(step).part for step in range(epoch * 36, (epoch + 1) * 36)]
        assert [parts.count(part) for part in range(3)] == [10, 4, 22]


def test_a_mix_shows_each_pair_of_each_set_at_most_once_an_epoch() -> None:
    batches = [mixed().batch(step) for step in range(36)]
    seen = [(batch.part, pair) for batch in batches for pair in batch.pairs.tolist()]
    assert len(seen) == len(set(seen)) == 144
    assert {(0, pair) for pair in range(40)} <= set(seen)
    assert all(pair < (40, 17, 90)[part] for part, pair in seen)


def test_a_mix_shuffles_its_sets_into_each_other_anew_each_epoch() -> None:
    order = mixed()
    first, second = ([order.batch(step + 36 * epoch).part for step in range(36)] for epoch in (0, 1))
    assert first != sorted(first)
    assert first != second


@pytest.mark.parametrize("counts", [[7], [20, 7], [0]])
def test_a_set_smaller_than_a_batch_is_refused(counts: list[int]) -> None:
    with pytest.raises(
        InputError, match=f"a batch of 8 pairs cannot be drawn from {counts[-1]}; make the batch smaller"
    ):
        Order([some_keys(count) for count in counts], seed=1, batch_size=8)


def test_a_set_of_exactly_one_batch_is_enough() -> None:
    order = Order([some_keys(8)], seed=1, batch_size=8)
    assert [sorted(order.batch(step).pairs.tolist()) for step in range(2)] == [list(range(8))] * 2
