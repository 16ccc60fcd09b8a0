"""Chance is SplitMix64, uniform, and a function of (seed, epoch, key, purpose, position) alone."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from msp_ds.stateless_random import hash64, key_of, splitmix64, uniform

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def reference_splitmix64(state: int) -> int:
    """One output of the published algorithm, in unsigned arithmetic: advance the state, then mix it."""
    z = (state + GOLDEN) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def reference_uniform(*, seed: int, epoch: int, key: int, purpose: str, n: int) -> list[float]:
    """Row of `uniform` from Python's unbounded integers."""
    state = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    for part in (seed, epoch, reference_splitmix64(key % WORD)):
        state = reference_splitmix64(state ^ (part % WORD))
    return [(reference_splitmix64(state + k * GOLDEN) >> 40) / 2**24 for k in range(n)]


def signed(number: int) -> int:
    return (number + WORD // 2) % WORD - WORD // 2


def draw(*, seed: int = 7, epoch: int = 0, purpose: str = "mlm", n: int = 64, num_keys: int = 1000) -> Tensor:
    return uniform(seed=seed, epoch=epoch, keys=torch.arange(num_keys), purpose=purpose, n=n)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def test_splitmix64_gives_the_published_sequence() -> None:
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = torch.tensor([signed(1234567 + k * GOLDEN) for k in range(5)])
    assert [number % WORD for number in splitmix64(states).tolist()] == published


@pytest.mark.parametrize("state", [0, -1, 1, 2**63 - 1, -(2**63)])
def test_splitmix64_wraps_like_unsigned_arithmetic(state: int) -> None:
    assert int(splitmix64(torch.tensor(state))) % WORD == reference_splitmix64(state % WORD)


def test_splitmix64_maps_distinct_numbers_to_distinct_numbers() -> None:
    assert splitmix64(torch.arange(100_000)).unique().numel() == 100_000


@pytest.mark.parametrize(("seed", "epoch", "key"), [(0, 0, 0), (9595, 19, -(2**63)), (-1, 3, 2**63 - 1)])
def test_uniform_equals_the_reference_in_unbounded_integers(seed: int, epoch: int, key: int) -> None:
    row = uniform(seed=seed, epoch=epoch, keys=torch.tensor([key]), purpose="regions", n=5)
    assert row.tolist() == [reference_uniform(seed=seed, epoch=epoch, key=key, purpose="regions", n=5)]


@pytest.mark.parametrize(("text", "digest"), [("", "e4a6a0577479b2b4"), ("coco-391895", "d0ae27c77dfac5c1")])
def test_key_of_is_the_digest_that_b2sum_prints(text: str, digest: str) -> None:
    # printf TEXT | b2sum -l 64
    assert key_of(text).to_bytes(8, "little", signed=True).hex() == digest


def test_a_row_depends_on_its_key_alone() -> None:
    keys = torch.tensor([5, -9, 123456789, 0])
    together = uniform(seed=1, epoch=2, keys=keys, purpose="p", n=9)
    alone = torch.cat([uniform(seed=1, epoch=2, keys=key[None], purpose="p", n=9) for key in keys])
    assert torch.equal(together, alone)


def test_the_order_of_a_batch_moves_rows_and_changes_none() -> None:
    keys, order = torch.arange(50), torch.randperm(50, generator=torch.Generator().manual_seed(0))
    straight = uniform(seed=1, epoch=2, keys=keys, purpose="p", n=9)
    assert torch.equal(uniform(seed=1, epoch=2, keys=keys[order], purpose="p", n=9), straight[order])


def test_asking_for_more_numbers_keeps_the_first_ones() -> None:
    assert torch.equal(draw(n=40)[:, :9], draw(n=9))


def test_numbers_lie_in_the_half_open_unit_interval() -> None:
    numbers = draw()
    assert numbers.dtype == torch.float32
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1


def test_mean_and_variance_are_those_of_the_uniform_law() -> None:
    numbers = draw().double()  # 64 000 numbers: four standard errors are 0.0046 and 0.0012
    assert float(numbers.mean()) == pytest.approx(1 / 2, abs=0.0046)
    assert float(numbers.var()) == pytest.approx(1 / 12, abs=0.0012)


@pytest.mark.parametrize("purpose", ["mlm", "regions", "order"])
def test_sixteen_bins_fill_evenly(purpose: str) -> None:
    counts = torch.bincount((draw(purpose=purpose) * 16).long().flatten(), minlength=16).double()
    chi_square = float(((counts - 4000) ** 2 / 4000).sum())
    assert chi_square < 37.70  # 99.9 % point of the chi-square law with 15 degrees of freedom


@pytest.mark.parametrize("other", [{"purpose": "mlm2"}, {"seed": 8}, {"epoch": 1}, {"seed": 0, "epoch": 7}])
def test_another_purpose_seed_or_epoch_is_unrelated(other: dict[str, int]) -> None:
    assert abs(correlation(draw(), draw(**other))) < 4 / 64_000**0.5


def test_neighbouring_keys_and_positions_are_unrelated() -> None:
    numbers = draw()
    assert abs(correlation(numbers[1:], numbers[:-1])) < 4 / 63_000**0.5
    assert abs(correlation(numbers[:, 1:], numbers[:, :-1])) < 4 / 63_000**0.5


def test_seed_and_epoch_do_not_stand_in_for_each_other() -> None:
    keys = torch.arange(4)
    one, other = (hash64(seed=seed, epoch=3 - seed, keys=keys, purpose="p") for seed in (1, 2))
    assert not torch.equal(one, other)


def test_hash64_keeps_the_shape_of_its_keys() -> None:
    keys = torch.arange(6).reshape(2, 3)
    whole = hash64(seed=1, epoch=1, keys=keys, purpose="p")
    assert torch.equal(whole.flatten(), hash64(seed=1, epoch=1, keys=keys.flatten(), purpose="p"))
