"""How fast a stage trains between two reports, what of that time it waits for data, and how much memory it takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_GIB = 2**30


class Throughput:
    """A clock that starts again with each report."""

    def __init__(
        self,
        *,
        peak_flops: float | None = None,
        flops_of: Callable[[Any], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """peak_flops: multiplications and additions a second that a rank's device could do, where that is known.

        flops_of: how many a rank's portion takes, forward and backward.
        """
        self._peak, self._flops_of = peak_flops, flops_of
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Counts from now on: what was done since the last report is none of the loop's."""
        self._began, self._waited, self._pairs, self._flops = self._clock(), 0.0, 0, 0.0

    def waiting(self, step_batches: Iterator[T]) -> Iterator[T]:
        """The same portions, each to be trained on; the time until it comes counts as waiting."""
        while True:
            began = self._clock()
            try:
                step_batch = next(step_batches)
            except StopIteration:
                return
            self._waited += self._clock() - began
            self._flops += self._flops_of(step_batch) if self._flops_of else 0.0
            yield step_batch

    def add(self, pairs: int) -> None:
        """Counts the pairs of one optimiser step of all ranks."""
        self._pairs += pairs

    def read(self) -> dict[str, float]:
        """The scalars since the last report; then it starts again.

        `speed/wait_share` is this rank's share of the time in which the loop stood still for the next batch, and
        `speed/mfu` the share of the peak, where that is known, that the model's multiplications came to.
        """
        passed = max(self._clock() - self._began, 1e-9)
        values = {"speed/pairs_per_s": self._pairs / passed, "speed/wait_share": self._waited / passed}
        if self._peak and self._flops:
            values["speed/mfu"] = self._flops / passed / self._peak
        self.restart()
        return values


def memory_scalars(device: torch.device) -> dict[str, float]:
    """`memory/...` in GiB: the most that was taken so far, by tensors and reserved for them, or by this process."""
    if device.type == "cuda":
        return {
            "memory/allocated_gib": torch.cuda.max_memory_allocated(device) / _GIB,
            "memory/reserved_gib": torch.cuda.max_memory_reserved(device) / _GIB,
        }
    resident = _peak_resident_bytes()
    return {} if resident is None else {"memory/resident_gib": resident / _GIB}


def _peak_resident_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
