"""The cost of a call: time and peak memory in a process of its own, and the bytes that it leaves allocated."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a call."""

    seconds: float
    """Wall time without imports."""
    cpu_seconds: float
    """CPU time of all threads."""
    peak_bytes: int
    """Peak memory of the process, with imports."""


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """Return the result of `work(*arguments)` in a fresh process and its cost; all must be picklable.

    Raises:
        RuntimeError: The work failed; the message is its traceback.
    """
    processes = multiprocessing.get_context("spawn")
    answer = processes.SimpleQueue()
    process = processes.Process(target=_run, args=(answer, work, arguments))
    process.start()
    fault, value, cost = answer.get()
    process.join()
    if fault:
        raise RuntimeError(fault)
    return value, cost


def _run(answer: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    try:
        value = work(*arguments)
    except Exception:
        answer.put((traceback.format_exc(), None, None))
        return
    cost = Cost(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu, peak_bytes=peak_memory())
    answer.put(("", value, cost))


def peak_memory() -> int:
    """Return the peak memory of this process in bytes; getrusage would include its parent's before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def drop_from_cache(path: Path) -> None:
    """Drop a file from the page cache, where the system allows it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def held_after(call: Callable[[], T], *, device: str = "cpu") -> tuple[T, int]:
    """Return the result of `call()` and the bytes that it allocated on the device and that are still in use."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        result = call()
        return result, torch.cuda.memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    return result, sum(event.self_cpu_memory_usage for event in profiler.key_averages())
