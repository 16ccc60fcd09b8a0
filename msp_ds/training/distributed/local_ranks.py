"""Several ranks on this machine, without a launcher: what one command does on all of a computer's cores."""

from __future__ import annotations

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

MOST = 2
"""Ranks on a CPU. With more cores, threads of a rank make better use of them than ranks of smaller batches would."""
GRACE_SECONDS = COLLECTIVE_TIMEOUT.total_seconds() + 35
"""How long the others may take to notice, say and save that a rank is gone before they are killed."""


def ranks_that_pay() -> int:
    """One where there is a GPU, else up to MOST: two ranks of a thread are half as fast again as one of two threads."""
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(MOST, cores // int(threads) if threads.isdecimal() and int(threads) else cores))


def on_ranks(work: Callable[[], object], num_ranks: int) -> None:
    """Does `work`, which must pickle, in a process a rank, placed as torchrun would, and waits for all; of one, here.

    SIGINT and SIGTERM are passed on as SIGTERM. Raises SystemExit once all ranks have ended: with 128 and the signal's
    number, or with the code of a rank that failed. The ranks say why themselves, but for one that was killed.
    """
    if num_ranks == 1:
        work()
        return
    place = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_PORT": free_port()}
    make = multiprocessing.get_context("spawn").Process
    ranks = [make(target=_be_a_rank, args=(rank, work, place)) for rank in range(num_ranks)]
    with _started(ranks) as asked:
        _wait_for(ranks)
    code = 128 + asked[0] if asked else _code_of([rank.exitcode or 0 for rank in ranks])
    if code:
        raise SystemExit(code)


@contextmanager
def _started(ranks: list[SpawnProcess]) -> Iterator[list[int]]:
    """In here the ranks run, and signals are passed on; it gives the list of those that came."""
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for rank in ranks:
            if rank.is_alive():
                rank.terminate()

    # Ranks that still import inherit that they ignore Ctrl-C, and end by the SIGTERM that is passed on.
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = {signal.SIGINT: ignored, signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    try:
        for rank in ranks:
            rank.start()
        for number in before:
            signal.signal(number, pass_on)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _code_of(codes: list[int]) -> int:
    """Of ranks that ended by themselves, by a fault or, below zero, by a signal: the first that is not 0."""
    for number, code in enumerate(codes):
        if code < 0:
            log.error("rank %d was killed by %s; was there too little memory?", number, signal.Signals(-code).name)
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def _wait_for(ranks: list[SpawnProcess]) -> None:
    """Returns when all have ended; those that outlive a failed one by GRACE_SECONDS are killed."""
    first_failed = 0.0
    while alive := [rank for rank in ranks if rank.is_alive()]:
        wait([rank.sentinel for rank in alive], timeout=1)
        if any(rank.exitcode for rank in ranks):
            first_failed = first_failed or time.monotonic()
            if time.monotonic() - first_failed > GRACE_SECONDS:
                for rank in alive:
                    rank.kill()


def _be_a_rank(rank: int, work: Callable[[], object], place: dict[str, int]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    numbers = {name: str(number) for name, number in {**place, "RANK": rank, "LOCAL_RANK": rank}.items()}
    os.environ.update(numbers, MASTER_ADDR="127.0.0.1")
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of a launcher further up, whose store these ranks are not in

    def worked() -> None:
        work()
        raise SystemExit(0)

    run_command(worked)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
