"""What the benchmarks of training have in common: clocks, ratios of rounds, and the files that keep them."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msp_ds.terminal import Terminal

SCHEDULE_PAIRS = 20_400_000
"""Pairs of the paper's three stages, all epochs."""
BUSY = 1.2
"""Wall time to CPU time of one thread, above which other programs had a part in it."""


class Clock:
    """Seconds: of this process on a CPU, so that neighbours do not count; on a GPU by the wall, work finished."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Since some start."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class Taken:
    """What some steps took."""

    seconds: float
    """By the Clock of the device."""
    wall: float
    """Seconds by the wall."""

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.seconds + other.seconds, self.wall + other.wall)

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.seconds - other.seconds, self.wall - other.wall)


def taken(clock: Clock) -> Taken:
    """Both times since some start; the difference of two is what lay between them."""
    return Taken(clock.now(), time.perf_counter())


def spread(tops: Sequence[float], bottoms: Sequence[float]) -> dict[str, float]:
    """top / bottom of each round: the median, the least, the most; and of the sums of all rounds."""
    each = [top / bottom for top, bottom in zip(tops, bottoms, strict=True)]
    return {
        "median": statistics.median(each),
        "least": min(each),
        "most": max(each),
        "of_sums": sum(tops) / sum(bottoms),
    }


def choose_device(name: str) -> None:
    """Hides the GPUs from a benchmark of the CPU, before torch looks for them: the engine takes one that it sees."""
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def write_figures(found: dict[str, Any], out: Path | None, console: Terminal) -> None:
    """Writes all figures as JSON, if they are wanted."""
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        console.print(f"written to {out}")
