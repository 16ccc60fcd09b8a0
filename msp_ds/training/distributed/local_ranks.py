"""Several ranks on one machine without a launcher, so that one command uses all cores."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

import torch

from msp_ds.terminal import run_command
from msp_ds.training.distributed.runtime import COLLECTIVE_TIMEOUT, free_port

log = logging.getLogger(__name__)

MAX_RANKS = 2
"""Ranks on a CPU. Further cores are better used by threads of a rank than by more ranks with smaller batches."""
GRACE_SECONDS = COLLECTIVE_TIMEOUT.total_seconds() + 35
"""How long the other ranks may take to notice and report a lost rank and to save, before they are killed."""


def default_num_ranks() -> int:
    """1 with a GPU, else up to MAX_RANKS: two ranks of one thread train 1.5 times as fast as one of two threads."""
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(MAX_RANKS, cores // int(threads) if threads.isdecimal() and int(threads) else cores))


def on_ranks(work: Callable[[], object], num_ranks: int) -> None:
    """Run `work`, which must pickle, in one process per rank and wait for all; with one rank, run it in this process.

    Each process has the environment that torchrun would give it. SIGINT and SIGTERM are passed on as SIGTERM.

    Raises: SystemExit after the last rank has ended, with 128 + the signal's number or the code of a rank that failed.
        Each rank reports its own error; for a killed one this process does.
    """
    if num_ranks == 1:
        work()
        return
    variables = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_PORT": free_port()}
    make = multiprocessing.get_context("spawn").Process
    ranks = [make(target=_run_rank, args=(rank, work, variables)) for rank in range(num_ranks)]
    with _started(ranks) as signals:
        _wait_for(ranks)
    code = 128 + signals[0] if signals else _exit_code([rank.exitcode or 0 for rank in ranks])
    if code:
        raise SystemExit(code)


@contextmanager
def _started(ranks: list[SpawnProcess]) -> Iterator[list[int]]:
    """Start the ranks and pass signals on to them inside the block; yields the list of received signals."""
    signals: list[int] = []

    def pass_on(number: int, _: object) -> None:
        signals.append(number)
        for rank in ranks:
            if rank.is_alive():
                rank.terminate()

    # A rank that is still importing inherits that Ctrl-C is ignored, and ends by the SIGTERM that is passed on.
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = {signal.SIGINT: ignored, signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    try:
        for rank in ranks:
            rank.start()
        for number in before:
            signal.signal(number, pass_on)
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(codes: list[int]) -> int:
    """The first exit code of a rank that is not 0; a negative one stands for a signal."""
    for number, code in enumerate(codes):
        if code < 0:
            log.error("rank %d was killed by %s, possibly for lack of memory", number, signal.Signals(-code).name)
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def _wait_for(ranks: list[SpawnProcess]) -> None:
    """Wait until all ranks have ended; kill those that outlive a failed one by GRACE_SECONDS."""
    first_failed = 0.0
    while alive := [rank for rank in ranks if rank.is_alive()]:
        wait([rank.sentinel for rank in alive], timeout=1)
        if any(rank.exitcode for rank in ranks):
            first_failed = first_failed or time.monotonic()
            if time.monotonic() - first_failed > GRACE_SECONDS:
                for rank in alive:
                    rank.kill()


def _run_rank(rank: int, work: Callable[[], object], variables: dict[str, int]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    numbers = {name: str(number) for name, number in {**variables, "RANK": rank, "LOCAL_RANK": rank}.items()}
    os.environ.update(numbers, MASTER_ADDR="127.0.0.1")
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of an outer launcher, whose store these ranks do not use

    def worked() -> None:
        work()
        raise SystemExit(0)

    run_command(worked)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
