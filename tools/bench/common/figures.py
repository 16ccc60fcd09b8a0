"""What the benchmarks of training share: clocks, ratios of rounds, a description of the machine, the JSON file."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from msp_ds.evaluation.precision import multiplies_bf16
from msp_ds.terminal import Terminal

SCHEDULE_PAIRS = 20_400_000
"""Pairs of the paper's three stages, all epochs."""
BUSY = 1.2
"""Ratio of wall time to CPU time of one thread above which other programs disturbed a measurement."""


class Clock:
    """Seconds of CPU time of this process, so that other programs do not count; on a GPU wall time, work finished."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Return seconds since an arbitrary start."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class Taken:
    """The time that some steps took."""

    seconds: float
    """Measured by the Clock of the device."""
    wall: float
    """Wall time in seconds."""

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.seconds + other.seconds, self.wall + other.wall)

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.seconds - other.seconds, self.wall - other.wall)


def taken(clock: Clock) -> Taken:
    """Return both times since an arbitrary start, to be subtracted."""
    return Taken(clock.now(), time.perf_counter())


def spread(tops: Sequence[float], bottoms: Sequence[float]) -> dict[str, float]:
    """Return the median, least and most top / bottom of the rounds, and the ratio of their sums."""
    each = [top / bottom for top, bottom in zip(tops, bottoms, strict=True)]
    return {
        "median": statistics.median(each),
        "least": min(each),
        "most": max(each),
        "of_sums": sum(tops) / sum(bottoms),
    }


def choose_device(name: str) -> None:
    """Hide the GPUs from a benchmark of the CPU before torch looks for them: the engine uses any that it sees."""
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def write_figures(found: dict[str, Any], out: Path | None, console: Terminal) -> None:
    """Write all figures as JSON if a file is named."""
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        console.print(f"written to {out}")


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the device, its load and the versions that a benchmark ran with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else (names or ["a CPU"])[0],
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "amx": multiplies_bf16(torch.device("cpu")),
        "torch": torch.__version__,
        **{name: known for name in ("deepspeed", "transformers") if (known := _version(name))},
        "python": sys.version.split()[0],
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
