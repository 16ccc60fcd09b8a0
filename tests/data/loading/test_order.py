"""An epoch is a shuffle of the pairs that neither the layout of the table nor the number of ranks can change."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from msp_ds.config import LengthBuckets
from msp_ds.data.loading.order import Order, OrderChoice, PairBlocks, choose_order, rank_slice, text_slots
from msp_ds.errors import InputError
from msp_ds.stateless_random import key_of


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


def test_any_step_can_come_first() -> None:
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


def test_epochs_also_mix_the_pairs_of_a_batch() -> None:
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


def some_lengths(count: int) -> Tensor:
    """Random slots of texts: 8, 12, 16 or 20."""
    return 8 + 4 * torch.randint(4, (count,), generator=torch.Generator().manual_seed(count))


def bucketed(count: int, *, seed: int = 1, batch_size: int = 8) -> Order:
    return Order([some_keys(count)], seed=seed, batch_size=batch_size, lengths=[some_lengths(count)])


def test_buckets_show_each_epoch_the_pairs_that_it_has_without_them() -> None:
    plain = Order([some_keys(1003)], seed=1, batch_size=8)
    for epoch in range(3):
        with_buckets, without = (torch.cat(epoch_rows(order, epoch)) for order in (bucketed(1003), plain))
        assert len(with_buckets) == 1000
        assert with_buckets.sort().values.tolist() == without.sort().values.tolist()
        assert not torch.equal(with_buckets, without)


def test_all_batches_of_a_bucketed_epoch_are_full() -> None:
    assert {len(pairs) for pairs in epoch_rows(bucketed(1003), 0)} == {8}


def test_all_batches_but_a_few_of_a_pool_hold_one_length() -> None:
    # 1024 pairs are 4 pools of 32 batches; 4 lengths meet in at most 3 batches of a pool.
    mixed_batches = sum(len(some_lengths(1024)[pairs].unique()) > 1 for pairs in epoch_rows(bucketed(1024), 0))
    assert mixed_batches <= 4 * 3


def test_length_buckets_exchange_pairs_within_a_pool_only() -> None:
    canonical = torch.cat(epoch_rows(Order([some_keys(1024)], seed=1, batch_size=1024), 0))
    place = torch.empty(1024, dtype=torch.int64)
    place[canonical] = torch.arange(1024)
    for pairs in epoch_rows(bucketed(1024), 0):
        assert len((place[pairs] // 256).unique()) == 1
        assert torch.equal(place[pairs], place[pairs].sort().values), "short and long mixed within a batch"


def test_bucketed_epochs_differ_and_mix_lengths_over_time() -> None:
    order = bucketed(1024)
    first, second = ({frozenset(pairs.tolist()) for pairs in epoch_rows(order, epoch)} for epoch in (0, 1))
    assert not first & second
    longest = [int(some_lengths(1024)[pairs].max()) for pairs in epoch_rows(order, 0)]
    assert longest != sorted(longest)


def test_another_layout_of_the_table_gives_the_same_bucketed_batches() -> None:
    keys, lengths = some_keys(300), some_lengths(300)
    layout = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    straight = Order([keys], seed=1, batch_size=8, lengths=[lengths])
    permuted = Order([keys[layout]], seed=1, batch_size=8, lengths=[lengths[layout]])
    for step in range(60):
        assert torch.equal(keys[straight.batch(step).pairs], keys[layout][permuted.batch(step).pairs])


def choice(lengths: Tensor, how: LengthBuckets) -> OrderChoice:
    return choose_order([some_keys(len(lengths))], [lengths], seed=1, batch_size=8, length_buckets=how)


def test_auto_uses_buckets_where_they_save_more_than_a_twentieth() -> None:
    # Half of the texts take 8 slots, half 16: without buckets a batch of 8 is padded to 16 with chance 255 / 256.
    # With them half of the batches take 8, less what the batch on each pool's edge costs: nearly a quarter is saved.
    halves = torch.tensor([8, 16]).repeat(512)
    assert choice(halves, "auto").buckets
    assert choice(halves, "auto").saved_ratio == pytest.approx(0.25, abs=0.02)
    alike = torch.full((1024,), 12)
    assert not choice(alike, "auto").buckets
    assert choice(alike, "auto").saved_ratio == 0


def test_buckets_can_be_switched_on_and_off() -> None:
    halves, alike = torch.tensor([8, 16]).repeat(512), torch.full((1024,), 12)
    assert choice(alike, "on").buckets
    assert not choice(halves, "off").buckets
    assert choice(halves, "off").saved_ratio == choice(halves, "on").saved_ratio > 0
    plain = Order([some_keys(1024)], seed=1, batch_size=8)
    assert torch.equal(choice(halves, "off").order.batch(5).pairs, plain.batch(5).pairs)


def test_slots_are_those_of_the_longest_text_of_each_batch() -> None:
    # One batch of all: 6 pairs padded to 20; two of three each: in any combination.
    lengths = torch.tensor([8, 8, 8, 20, 20, 20])
    assert text_slots(Order([some_keys(6)], seed=1, batch_size=6), [lengths]) == 120
    with_buckets = Order([some_keys(6)], seed=1, batch_size=3, lengths=[lengths])
    assert text_slots(with_buckets, [lengths]) == 3 * 8 + 3 * 20


def mixed() -> Order:
    """Three sets of 40, 17 and 90 pairs: 10, 4 and 22 batches of four."""
    sets = [some_keys(count, name=name) for name, count in (("t", 40), ("p", 17), ("s", 90))]
    return Order(sets, seed=1, batch_size=4)


def test_a_mix_has_batches_of_each_set_in_proportion() -> None:
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


def test_a_mix_shuffles_the_batches_of_its_sets_in_each_epoch() -> None:
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


def test_orders_stay_what_they_were() -> None:
    """Checksums of the orders of two sets in three epochs, recorded before there were blocks."""
    keys = [some_keys(count, name="p") for count in (203, 1003)]
    lengths = [8 + 4 * torch.randint(4, (len(part),), generator=torch.Generator().manual_seed(1)) for part in keys]
    sums = []
    for order in (Order(keys, seed=5, batch_size=8), Order(keys, seed=5, batch_size=8, lengths=lengths)):
        digest = hashlib.sha256()
        for step in range(3 * order.batches_per_epoch):
            batch = order.batch(step)
            digest.update(bytes([batch.epoch, batch.part]) + batch.pairs.numpy().astype("<i8").tobytes())
        sums.append(digest.hexdigest())
    assert sums == [
        "c881c5e0e31e7d99470b14b95a32d18425f70bffd80142b68540e82454b33033",
        "1ec481920bcf048846452cd14fe7391eb6e07023f6260922d59b4a207d5a1a8a",
    ]


def block_of_pairs(counts: list[int], *, num_blocks: int) -> PairBlocks:
    """Pair p of a set is in block p % num_blocks, shifted by one each epoch."""
    return lambda epoch: [(torch.arange(count) + epoch) % num_blocks for count in counts]


def by_block(counts: list[int], *, num_blocks: int, with_lengths: bool = False) -> Order:
    keys = [some_keys(count, name=f"set {number}") for number, count in enumerate(counts)]
    lengths = [some_lengths(count) for count in counts] if with_lengths else None
    return Order(keys, seed=1, batch_size=8, lengths=lengths, blocks=block_of_pairs(counts, num_blocks=num_blocks))


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("counts", [[1000], [200, 1003, 90]])
def test_an_epoch_of_blocks_holds_every_pair_once_and_walks_from_block_to_block(
    counts: list[int], with_lengths: bool
) -> None:
    order = by_block(counts, num_blocks=5, with_lengths=with_lengths)
    for epoch in range(3):
        batches = [
            order.batch(step) for step in range(epoch * order.batches_per_epoch, (epoch + 1) * order.batches_per_epoch)
        ]
        seen = [(batch.part, pair) for batch in batches for pair in batch.pairs.tolist()]
        assert len(seen) == len(set(seen)) == sum(count // 8 * 8 for count in counts)
        for batch in batches:
            held = (batch.pairs + epoch) % 5
            assert (int(held.min()), int(held.max())) == batch.blocks
            assert batch.blocks[1] - batch.blocks[0] <= 1
        assert [batch.blocks for batch in batches] == sorted(batch.blocks for batch in batches)


def test_at_most_one_batch_at_each_border_needs_two_blocks() -> None:
    # 5 blocks of 200 pairs: 25 batches each, none on an edge. Of 203 pairs: 25 and 3 pairs, which the next completes.
    even, odd = by_block([1000], num_blocks=5), by_block([1015], num_blocks=5)
    edges = [[one.batch(step).blocks for step in range(one.batches_per_epoch)] for one in (even, odd)]
    assert not [blocks for blocks in edges[0] if blocks[0] < blocks[1]]
    assert [blocks for blocks in edges[1] if blocks[0] < blocks[1]] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_one_block_is_the_whole_set() -> None:
    for with_lengths in (False, True):
        one = by_block([203, 1003], num_blocks=1, with_lengths=with_lengths)
        keys = [some_keys(count, name=f"set {number}") for number, count in enumerate((203, 1003))]
        lengths = [some_lengths(203), some_lengths(1003)] if with_lengths else None
        whole = Order(keys, seed=1, batch_size=8, lengths=lengths)
        assert all(torch.equal(one.batch(step).pairs, whole.batch(step).pairs) for step in range(300))


def test_length_buckets_exchange_pairs_within_a_block_only() -> None:
    plain, buckets = (by_block([1015], num_blocks=5, with_lengths=with_lengths) for with_lengths in (False, True))
    for section in plain.sections(0, plain.batches_per_epoch):
        without, with_them = (torch.cat([one.batch(step).pairs for step in section]) for one in (plain, buckets))
        assert with_them.sort().values.tolist() == without.sort().values.tolist()
    lengths = some_lengths(1015)
    slots = [sum(int(lengths[one.batch(step).pairs].max()) for step in range(126)) for one in (plain, buckets)]
    assert slots[1] < 0.9 * slots[0]


def test_sections_are_the_steps_that_need_the_same_blocks() -> None:
    order = by_block([48], num_blocks=2)  # 24 pairs, three batches a block
    assert list(order.sections(0, 12)) == [range(3), range(3, 6), range(6, 9), range(9, 12)]
    assert list(order.sections(4, 7)) == [range(4, 6), range(6, 7)]
    assert list(Order([some_keys(48)], seed=1, batch_size=8).sections(4, 70)) == [range(4, 70)]


def test_any_step_of_an_epoch_of_blocks_can_come_first() -> None:
    forward, backward = (by_block([1003], num_blocks=5) for _ in range(2))
    ahead = [forward.batch(step).pairs for step in range(250)]
    behind = [backward.batch(step).pairs for step in reversed(range(250))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(ahead, behind, strict=True))
