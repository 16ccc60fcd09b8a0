"""Each epoch assigns the tars to blocks of which two always fit, or an error names a sufficient limit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.block_plan import BlockPlan, plan_blocks
from msp_ds.errors import InputError

TOTAL = 5 * 51_200 + 7 * 40_960
"""Bytes of the twelve tars, five of which are larger than the others."""


@pytest.fixture(scope="module")
def shards(twelve_tars: Path) -> ShardSet:
    return open_set(twelve_tars / "sentence" / "train")


def planned(shards: ShardSet, free: int, *, batch_size: int = 16, kept: int = 1000) -> BlockPlan:
    return plan_blocks([shards], limit=free + kept, kept=kept, seed=1, batch_size=batch_size)


def test_the_tars_have_the_sizes_of_the_worked_numbers_below(shards: ShardSet) -> None:
    assert sorted(shard.bytes for shard in shards.index.shards) == [40_960] * 7 + [51_200] * 5
    assert {len(shard.keys) for shard in shards.index.shards} == {6}
    assert len(shards.pairs.keys) == 12 * 6 * 5


# Two blocks of the largest tars take, of four each, 409,600 bytes, of three 307,200, of two 204,800, of one 102,400.
@pytest.mark.parametrize(
    ("free", "num_blocks"),
    [(TOTAL, 1), (TOTAL - 1, 3), (409_600, 3), (409_599, 4), (307_200, 4), (204_800, 6), (204_799, 12), (102_400, 12)],
)
def test_there_are_as_few_blocks_as_fit(shards: ShardSet, free: int, num_blocks: int) -> None:
    assert planned(shards, free).num_blocks == num_blocks


def test_each_epoch_assigns_every_tar_once_and_differently(shards: ShardSet) -> None:
    plan, assignments = planned(shards, 204_800), set()
    for epoch in range(20):
        blocks = [tuple(plan.tars(epoch, block)[0].tolist()) for block in range(6)]
        assert [len(block) for block in blocks] == [2] * 6
        assert sorted(tar for block in blocks for tar in block) == list(range(12))
        assignments.add(tuple(blocks))
    assert len(assignments) == 20


def test_the_assignment_depends_on_the_seed_only(shards: ShardSet) -> None:
    one, again, other = (BlockPlan([shards], seed=seed, num_blocks=4) for seed in (1, 1, 2))
    assert [one.tars(3, block)[0].tolist() for block in range(4)] == [
        again.tars(3, block)[0].tolist() for block in range(4)
    ]
    assert [one.tars(3, block)[0].tolist() for block in range(4)] != [
        other.tars(3, block)[0].tolist() for block in range(4)
    ]


@pytest.mark.parametrize("free", [102_400, 204_800, 307_200, 400_000])
def test_any_two_blocks_fit(shards: ShardSet, free: int) -> None:
    plan = planned(shards, free)
    sizes = torch.tensor([shard.bytes for shard in shards.index.shards])
    for epoch in range(50):
        blocks = sorted(int(sizes[plan.tars(epoch, block)[0]].sum()) for block in range(plan.num_blocks))
        assert blocks[-1] + blocks[-2] <= free


def test_pairs_and_images_are_where_their_tar_is(shards: ShardSet) -> None:
    plan = planned(shards, 204_800)
    for block in range(6):
        images = plan.images(7, (block, block))[0]
        expected = np.flatnonzero(np.isin(shards.shard_of, plan.tars(7, block)[0].numpy()))
        assert images.tolist() == expected.tolist()
        pairs = np.flatnonzero(np.isin(shards.pairs.image_rows, expected))
        assert (plan.pairs(7)[0] == block).nonzero().flatten().tolist() == pairs.tolist()
    both = torch.cat([plan.images(7, (block, block))[0] for block in (2, 3)]).sort().values
    assert torch.equal(plan.images(7, (2, 3))[0], both)


@pytest.mark.parametrize(("free", "batch_size"), [(102_399, 16), (204_799, 31), (60_000, 1), (-5, 16), (300_000, 91)])
def test_a_limit_that_is_too_small_is_refused_with_one_that_suffices(
    shards: ShardSet, free: int, batch_size: int
) -> None:
    # A batch of 31 pairs can need three blocks of one tar (30 pairs) each; one of 91 three blocks
    # of three, so that there may be no more than three blocks of four.
    with pytest.raises(InputError, match=r"the tars of sentence take .* give --cache-limit \d+\.\d$") as refused:
        planned(shards, free, batch_size=batch_size)
    advice = re.search(r"--cache-limit ([\d.]+)$", str(refused.value))
    assert advice is not None
    limit = int(float(advice[1]) * 10**9)
    assert plan_blocks([shards], limit=limit, kept=1000, seed=1, batch_size=batch_size)


def test_several_sets_have_tars_in_every_block(shards: ShardSet) -> None:
    plan = plan_blocks([shards, shards], limit=2 * 204_800, kept=0, seed=1, batch_size=16)
    assert plan.num_blocks == 6
    for block in range(6):
        first, second = plan.tars(0, block)
        assert len(first) == len(second) == 2
    assert any(not torch.equal(*plan.tars(0, block)) for block in range(6))
