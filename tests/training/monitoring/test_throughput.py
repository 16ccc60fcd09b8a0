"""Speed, waiting and FLOPs utilisation, measured with a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from msp_ds.training.monitoring.throughput import Throughput, memory_scalars


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def three_batches(clock: Clock, *, seconds_each: float) -> Iterator[int]:
    for number in range(3):
        clock.now += seconds_each
        yield number


def test_waiting_is_the_time_until_a_batch_comes_and_nothing_else() -> None:
    clock = Clock()
    throughput = Throughput(clock=clock, peak_flops=1000.0, flops_of=lambda step_batch: 300.0 * (step_batch + 1))
    for _ in throughput.waiting(three_batches(clock, seconds_each=1.0)):
        clock.now += 3.0  # the step
        throughput.add(8)
    assert throughput.read() == pytest.approx({"speed/pairs_per_s": 2.0, "speed/wait_ratio": 0.25, "speed/mfu": 0.15})


def test_a_report_and_a_restart_start_the_clock_again() -> None:
    clock = Clock()
    throughput = Throughput(clock=clock)
    clock.now += 50.0
    throughput.restart()
    clock.now += 2.0
    throughput.add(10)
    assert throughput.read() == {"speed/pairs_per_s": 5.0, "speed/wait_ratio": 0.0}
    clock.now += 1.0
    assert throughput.read() == {"speed/pairs_per_s": 0.0, "speed/wait_ratio": 0.0}


def test_memory_on_a_cpu_is_that_of_the_process() -> None:
    held = torch.zeros(2**26)  # a quarter of a GiB, touched
    assert memory_scalars(torch.device("cpu"))["memory/resident_gib"] > 0.25
    del held
