"""The model of many GPUs, on numbers that are worked by hand."""

from __future__ import annotations

import pytest

from tools.scaling_model import Machine, Way, Work, efficiency, state_bytes, step_on

# 10 parameters; a pair takes 3 s, an update 4 s; 40 bytes a second inside a machine, 10 between, 1 s a hop.
MACHINE = Machine(gpus_a_node=2, inside=40.0, between=10.0, hop=1.0)
WORK = Work(seconds_a_pair=3.0, update_seconds=4.0, parameters=10, pair_bytes=100.0)


def test_a_ring_carries_its_shares_over_the_slowest_link() -> None:
    assert MACHINE.ring_seconds(40.0, 1, rounds=2) == 0.0
    # two hops of half of 40 bytes: 20 / 40 + 1
    assert MACHINE.ring_seconds(40.0, 2, rounds=2) == 3.0
    # three hops of a quarter between machines: 10 / 10 + 1
    assert MACHINE.ring_seconds(40.0, 4, rounds=1) == 6.0


def test_one_gpu_waits_for_nobody() -> None:
    step = step_on(1, MACHINE, WORK, Way(zero_stage=0, micro_batch=2))
    assert (step.seconds, step.waiting, step.pairs) == (10.0, 0.0, 2)
    assert step.bytes_held == 10 * 18 + 200


@pytest.mark.parametrize(
    ("stage", "passes", "overlap", "travelling", "waiting", "seconds"),
    [
        # 40 bytes both ways: 6 hops of 2 s; a backward pass of 2 pairs hides 4 s; 6 s of compute, 4 of update
        (0, 1, True, 12.0, 8.0, 6 + 8 + 4),
        (0, 1, False, 12.0, 12.0, 6 + 12 + 4),
        (0, 2, True, 12.0, 8.0, 12 + 8 + 4),
        # 20 bytes one way: 3 hops of 1.5 s; gradients hide 4 of 4.5 s, the weights come after; a quarter of the update
        (1, 1, True, 9.0, 5.0, 6 + 5 + 1),
        (1, 2, False, 9.0, 9.0, 12 + 9 + 1),
        # after each of two passes
        (2, 2, True, 13.5, 9 - 8 + 4.5, 12 + 5.5 + 1),
        # weights twice and gradients once, each pass; a whole pass hides them
        (3, 1, True, 13.5, 7.5, 6 + 7.5 + 1),
    ],
)
def test_a_step_on_two_machines(
    stage: int, passes: int, overlap: bool, travelling: float, waiting: float, seconds: float
) -> None:
    way = Way(zero_stage=stage, micro_batch=2, accumulation=passes, overlap=overlap)
    step = step_on(4, MACHINE, WORK, way)
    assert (step.travelling, step.waiting, step.seconds) == pytest.approx((travelling, waiting, seconds))
    assert step.pairs == 4 * 2 * passes


def test_zero_splits_what_it_says() -> None:
    # bytes a parameter: 18 in fp32 with 16-bit copies; 2 + 2 + 12 in 16 bits
    assert [state_bytes(10, 4, stage) for stage in range(4)] == [180, 70, 55, 40]


def test_efficiency_is_to_as_many_gpus_alone() -> None:
    # alone 2 pairs in 10 s; four GPUs 8 pairs in 18 s
    assert efficiency(4, MACHINE, WORK, Way(zero_stage=0, micro_batch=2)) == pytest.approx((8 / 18) / (4 * 2 / 10))
    assert efficiency(1, MACHINE, WORK, Way(zero_stage=0, micro_batch=2, accumulation=3)) == 1.0
