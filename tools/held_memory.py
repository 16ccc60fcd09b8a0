"""How many bytes a call leaves behind: after a forward pass, what waits for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

T = TypeVar("T")


def held_after(call: Callable[[], T], *, device: str = "cpu") -> tuple[T, int]:
    """What `call()` gives, and the bytes that it allocated on the device and that are still in use."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        result = call()
        return result, torch.cuda.memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    return result, sum(event.self_cpu_memory_usage for event in profiler.key_averages())
