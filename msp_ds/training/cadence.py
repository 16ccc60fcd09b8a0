"""When a stage reports, validates and saves, and what all ranks agree on before they go on."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from msp_ds.data.remote.blocks import Blocks
from msp_ds.errors import InputError
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.guards.interrupt import StopRequest

REPORT_EVERY = 10  # optimiser steps between two reports by default
BLOCK_PAUSE = 0.1  # seconds between two checks whether a block of shards has been fetched


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """After which optimiser steps a stage reports, validates and saves. `done` counts the steps done, from 1."""

    start: int = 0  # steps that the checkpoint being continued from had done
    num_steps: int
    batches_per_epoch: int
    save_every: int  # optimiser steps between two checkpoints; one is saved after each epoch too
    report_every: int = REPORT_EVERY
    """A report reads sums from the device and makes the ranks wait for each other, so it is not made at each step."""

    def ends_epoch(self, done: int) -> bool:
        """Return whether a validation follows: at the end of an epoch, and of the stage."""
        return done % self.batches_per_epoch == 0 or done == self.num_steps

    def saves(self, done: int) -> bool:
        """Return whether a checkpoint follows."""
        return self.ends_epoch(done) or done % self.save_every == 0

    def reports(self, done: int) -> bool:
        """Return whether a report follows. One comes before every checkpoint, so that no faulty step is saved."""
        return self.saves(done) or done % self.report_every == 0


def stop_signal(stop: StopRequest, runtime: Runtime) -> int:
    """Return the signal that any rank has received, 0 for none; every rank must call it.

    A launcher signals one rank after the other. A rank that left alone would leave the others waiting for its
    gradients, so all stop at the same step or none does.
    """
    return _largest(stop.signal, runtime)


def wait_for_blocks(
    blocks: Blocks, stop: StopRequest, runtime: Runtime, *, alive: Callable[[], None]
) -> tuple[str, int]:
    """Wait until every rank has the shards of its next batches; every rank must call it.

    alive: called at each check. Returns early, on all ranks, when one rank cannot have its shards or was asked to stop.

    Returns:
        The reason why shards cannot be had, empty if they are here, and the signal to stop, 0 for none.
    """
    is_ready = False
    while True:
        fault = ""
        try:
            is_ready = blocks.ready()
        except InputError as error:
            fault = str(error)
        # Every rank makes these calls, whatever it has found itself: they are collective.
        fault, signal = runtime.any_error(fault), stop_signal(stop, runtime)
        if fault or signal or not _largest(int(not is_ready), runtime):
            return fault, signal
        alive()
        time.sleep(BLOCK_PAUSE)


def _largest(value: int, runtime: Runtime) -> int:
    return int(runtime.all_reduce_max(torch.tensor(value, device=runtime.device)))
