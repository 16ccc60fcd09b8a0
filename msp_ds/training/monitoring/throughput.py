"""The speed of training between two reports, the ratio of time spent waiting for data, and the memory in use."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")

GIB = 2**30


class Throughput:
    """Measures speed and waiting since the last report."""

    def __init__(
        self,
        *,
        peak_flops: float | None = None,
        flops_of: Callable[[Any], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """peak_flops: peak floating-point operations per second of a rank's device; None where it is unknown.

        flops_of: floating-point operations of a rank's StepBatch, forward and backward.
        """
        self._peak, self._flops_of = peak_flops, flops_of
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Start again from now, so that the time since the last report does not count."""
        self._began, self._waited, self._pairs, self._flops = self._clock(), 0.0, 0, 0.0

    def waiting(self, step_batches: Iterator[T]) -> Iterator[T]:
        """Yield the same step batches; the time until each comes counts as waiting."""
        began = self._clock()
        for step_batch in step_batches:
            self._waited += self._clock() - began
            self._flops += self._flops_of(step_batch) if self._flops_of else 0.0
            yield step_batch
            began = self._clock()

    def add(self, pairs: int) -> None:
        """Count the pairs of one optimiser step over all ranks."""
        self._pairs += pairs

    def read(self) -> dict[str, float]:
        """The scalars since the last report; then start again.

        `speed/wait_ratio` is the ratio of this rank's time spent waiting for data; `speed/mfu` is the model FLOPs
        utilisation, where the peak is known.
        """
        passed = max(self._clock() - self._began, 1e-9)
        values = {"speed/pairs_per_s": self._pairs / passed, "speed/wait_ratio": self._waited / passed}
        if self._peak and self._flops:
            values["speed/mfu"] = self._flops / passed / self._peak
        self.restart()
        return values


def memory_scalars(device: torch.device) -> dict[str, float]:
    """Peak memory in GiB: allocated and reserved on a GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return {
            "memory/allocated_gib": torch.cuda.max_memory_allocated(device) / GIB,
            "memory/reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
        }
    resident = _peak_resident_bytes()
    return {} if resident is None else {"memory/resident_gib": resident / GIB}


def _peak_resident_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak if sys.platform == "darwin" else peak * 1024
