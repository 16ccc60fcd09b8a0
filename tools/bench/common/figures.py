"""Clocks, ratios of rounds, the device, a description of the machine and the JSON file of the training benchmarks."""

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

from msp_ds.errors import InputError
from msp_ds.evaluation.precision import multiplies_bf16
from msp_ds.terminal import Terminal

SCHEDULE_PAIRS = 20_400_000
"""Pairs of the paper's three stages, all epochs."""
BUSY = 1.2
"""Ratio of wall time to CPU time of one thread above which other programs disturbed a measurement."""


@dataclass(frozen=True)
class Times:
    """A reading of several clocks, or the difference of two readings; all in seconds."""

    seconds: float = 0.0
    """CPU time of the process, its background threads included; on a GPU wall time with its work finished."""
    wall: float = 0.0
    thread: float = 0.0
    """CPU time of the training loop's own thread."""

    def __add__(self, other: Times) -> Times:
        return Times(self.seconds + other.seconds, self.wall + other.wall, self.thread + other.thread)

    def __sub__(self, other: Times) -> Times:
        return Times(self.seconds - other.seconds, self.wall - other.wall, self.thread - other.thread)


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

    def times(self) -> Times:
        """Read all clocks."""
        return Times(self.now(), time.perf_counter(), time.thread_time())


def spread(tops: Sequence[float], bottoms: Sequence[float]) -> dict[str, float]:
    """Return the median, least and most top / bottom of the rounds, and the ratio of their sums."""
    each = [top / bottom for top, bottom in zip(tops, bottoms, strict=True)]
    return {
        "median": statistics.median(each),
        "least": min(each),
        "most": max(each),
        "of_sums": sum(tops) / sum(bottoms),
    }


def spread_cells(ratios: dict[str, float], digits: int) -> tuple[str, str, str]:
    """Return three cells of a table for a `spread`: median, least to most, of all rounds."""
    median, least, most, of_sums = (f"{ratios[name]:.{digits}f}" for name in ("median", "least", "most", "of_sums"))
    return median, f"{least} to {most}", of_sums


def choose_device(name: str) -> torch.device:
    """Return the device; GPUs are hidden from a benchmark of the CPU, since the engine uses any that it sees.

    Raises: InputError for cuda without a GPU.
    """
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise InputError("there is no GPU here; leave --device out")
    return torch.device(name)


def warn_if_busy(wall_to_cpu: float, console: Terminal) -> None:
    """Report other programs that disturbed a measurement."""
    if wall_to_cpu > BUSY:
        console.print(f"other programs kept this machine busy (wall/CPU {wall_to_cpu:.2f}): run it again")


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
