"""Runs a function in a process of its own and says what it took: benchmarks must not inherit each other's memory."""

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
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a call took."""

    seconds: float
    """By the clock; imports left out."""
    cpu_seconds: float
    """Of all threads."""
    peak_bytes: int
    """Most memory that the process held, imports included."""


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """What `work(*arguments)` gives in a fresh process, and its cost; all of it must be picklable.

    Raises: RuntimeError, with the traceback from there, when it fails.
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
    cost = Cost(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu, peak_bytes=_peak_memory())
    answer.put(("", value, cost))


def _peak_memory() -> int:
    """Bytes that this process held at most; getrusage would count what it was before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def drop_from_cache(path: Path) -> None:
    """Let the next reader of a file fetch it from the disk, where the system can."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
