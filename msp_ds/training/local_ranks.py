"""Several ranks on this machine, without a launcher: what one command does on all of a computer's cores."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from msp_ds.terminal import run_command
from msp_ds.training.runtime import free_port

MOST = 2
"""On a CPU. Of a small model a rank that has more threads makes better use of them than more ranks would."""


def ranks_that_pay() -> int:
    """One where there is a GPU, else up to MOST: two ranks of a thread are half as fast again as one of two threads."""
    return 1 if torch.cuda.is_available() else min(MOST, os.cpu_count() or 1)


def on_ranks(work: Callable[[], object], num_ranks: int) -> None:
    """Does `work`, which must pickle, in a process a rank, as torchrun would start it, and waits for all.

    Raises SystemExit with the code of a rank that failed, once all have ended; with 130 after Ctrl-C, which reaches
    every rank by itself.
    """
    place = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_PORT": free_port()}
    context = spawn(_be_a_rank, args=(work, place), nprocs=num_ranks, join=False)  # type: ignore[no-untyped-call]
    try:
        while not context.join():
            pass
    except ProcessExitedException as ended:
        raise SystemExit(ended.exit_code) from None
    except KeyboardInterrupt:
        for process in context.processes:
            process.join()
        raise SystemExit(130) from None


def _be_a_rank(rank: int, work: Callable[[], object], place: dict[str, int]) -> None:
    numbers = {name: str(number) for name, number in {**place, "RANK": rank, "LOCAL_RANK": rank}.items()}
    os.environ.update(numbers, MASTER_ADDR="127.0.0.1")

    def worked() -> None:
        work()
        raise SystemExit(0)

    run_command(worked)
