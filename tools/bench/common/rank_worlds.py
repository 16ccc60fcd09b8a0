"""Groups of ranks on one machine that train some steps each time the benchmark asks them to."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msp_ds.training.batch_loader import StepBatch

BATCHES = 8
"""Different batches that are trained again and again, from short to long texts."""


@dataclass(frozen=True, kw_only=True)
class WorldPlan:
    """Some ranks that train together; each is a process with one thread."""

    name: str
    ranks: int
    batch_size: int
    """Pairs in an optimiser step, over all ranks."""
    preset: str
    settings: dict[str, Any]
    """Fields of Execution."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The times of some steps."""

    wall: float
    """Seconds, of the slowest rank."""
    cpu: float
    """Seconds, of all ranks together."""
    reducing: float
    """Seconds of `wall` that were spent on gradients after the backward pass, of the rank that waited least."""
    updating: float
    """Seconds of `wall` for clipping and the optimiser, of the slowest rank."""

    @classmethod
    def of(cls, ranks: list[dict[str, float]]) -> Turn:
        """Combine the times of all ranks."""
        return cls(
            wall=max(one["wall"] for one in ranks),
            cpu=sum(one["cpu"] for one in ranks),
            reducing=min(one["reducing"] for one in ranks),
            updating=max(one["updating"] for one in ranks),
        )


class World:
    """The processes of a WorldPlan, each waiting for its turn at the end of a pipe."""

    def __init__(self, plan: WorldPlan) -> None:
        self.plan = plan
        processes, port = multiprocessing.get_context("spawn"), free_port()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(plan.ranks):
            ours, theirs = processes.Pipe()
            process = processes.Process(target=_train, args=(theirs, plan, rank, port), daemon=True)
            process.start()
            theirs.close()  # a rank that dies is noticed by its pipe's end
            self._pipes.append(ours)
            self._processes.append(process)
        first, *_ = [self._receive(pipe) for pipe in self._pipes]
        self.facts: dict[str, float] = first
        """`parameters` and `text_slots_a_pair`."""

    def train(self, steps: int) -> Turn:
        """Train some steps and return what they took."""
        for pipe in self._pipes:
            pipe.send(steps)
        return Turn.of([self._receive(pipe) for pipe in self._pipes])

    def end(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(0)
        for process in self._processes:
            process.join()

    def _receive(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except EOFError:
            raise RuntimeError(f"a rank of {self.plan.name} has died; its traceback is above") from None


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _train(pipe: Connection, plan: WorldPlan, rank: int, port: int) -> None:
    """Run one rank: the training loop of msp-ds with batches that are handed out turn by turn."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(plan.ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(plan.ranks), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from msp_ds.training.distributed.runtime import start_runtime

    runtime = start_runtime(os.environ)  # names the device to DeepSpeed, which the next lines import
    import torch

    from msp_ds.data.loading.order import Order, rank_slice
    from msp_ds.presets import get_preset
    from msp_ds.training.engine.execution import Execution
    from tools.bench.common.replayed_loop import Stand, run_loop
    from tools.bench.common.step_pool import PAIRS, Pool, a_context

    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(
            preset=get_preset(plan.preset),
            batch_size=plan.batch_size,
            num_steps=10**9,  # the pipe ends it
            runtime=runtime,
            execution=Execution(**{"precision": "fp32", **plan.settings}),
            folder=Path(folder),
        )
        config = stand.preset.model
        context, pool = a_context(config), Pool(config, batch_size=plan.batch_size)
        mine = [rank_slice(pairs, rank=rank, world_size=plan.ranks) for pairs in pool.choices(BATCHES)]
        step_batches = [stand.step_batch(step, pool.batch(pairs), context) for step, pairs in enumerate(mine)]
        spent = {"reducing": 0.0, "updating": 0.0}
        order = Order([torch.arange(PAIRS)], seed=0, batch_size=plan.batch_size)
        model = stand.model(context)
        loop = stand.loop(model, _turns(pipe, step_batches, spent), order)
        engine = loop.engine.engine
        engine.allreduce_gradients = timed(engine.allreduce_gradients, spent, "reducing")
        engine.step = timed(engine.step, spent, "updating")
        size = sum(one.numel() for one in model.parameters())
        pipe.send({"parameters": size, "text_slots_a_pair": pool.mean_slots()})
        run_loop(loop)
    torch.distributed.destroy_process_group()


def _turns(pipe: Connection, step_batches: list[StepBatch], spent: dict[str, float]) -> Iterator[StepBatch]:
    """Yield as many batches as the pipe requests and send what they took, until it requests none."""
    number = 0
    while steps := pipe.recv():
        wall, cpu, before = time.perf_counter(), time.process_time(), dict(spent)
        for _ in range(steps):
            yield step_batches[number % len(step_batches)]
            number += 1
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        pipe.send({**times, **{what: seconds - before[what] for what, seconds in spent.items()}})


def timed(call: Callable[..., Any], spent: dict[str, float], what: str) -> Callable[..., Any]:
    """Wrap `call` so that it adds its seconds to spent[what]."""

    def timed_call(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            spent[what] += time.perf_counter() - began

    return timed_call
