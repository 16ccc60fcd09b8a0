"""Steps of the whole way, from the shards to the checkpoint, and bare ones on the same corrupted batches, in turns."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from msp_ds.config import RunConfig
from msp_ds.curriculum import curriculum
from msp_ds.data.loading.reader import Reader
from msp_ds.presets import get_preset
from msp_ds.records import Batch
from msp_ds.training.assembly.inputs import build_context, open_stage_data, order_pairs
from msp_ds.training.batch_loader import BatchLoader, StepBatch
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.loop import StageLoop
from msp_ds.training.memory.cards import peak_flops
from msp_ds.training.memory.cost_model import step_flops
from tools.bench.common.figures import Clock, Times
from tools.bench.common.replayed_loop import PlainStep, Stand, run_loop


def own_times() -> Times:
    """Read the clocks of this thread without waiting for a GPU."""
    thread = time.thread_time()
    return Times(thread, time.perf_counter(), thread)


@dataclass(frozen=True, kw_only=True)
class Round:
    """Some steps the whole way, and as many bare ones."""

    whole: Times
    bare: Times
    corruption: Times
    phases: dict[str, Times]
    """Parts of `whole`: `wait`, `step`, `report`, `save`."""
    pairs: int
    flops: float
    """Floating-point operations of the batches' matrix products."""
    gpu_bytes: int = 0
    """Most that a GPU held more than before the round, the round's batches left out."""


@dataclass(kw_only=True)
class Rounds:
    """Batches for the loop; after every few steps as many bare ones are trained, while nothing is read or written."""

    step_batches: Iterator[StepBatch]
    bare: PlainStep
    clock: Clock
    steps: int
    settle: Callable[[], None]
    """Waits for what is being written; counts as part of the whole way."""
    flops_of: Callable[[StepBatch], float]
    phases: dict[str, Times] = field(default_factory=dict)
    found: list[Round] = field(default_factory=list)
    _kept: list[StepBatch] = field(default_factory=list)
    _held: int = 0

    def spent(self, phase: str, began: Times) -> None:
        """Add the time since `began`, on the loop's own thread, to a phase."""
        self.phases[phase] = self.phases.get(phase, Times()) + (own_times() - began)

    def __iter__(self) -> Iterator[StepBatch]:
        began = self._begin()
        while True:
            requested = own_times()
            step_batch = next(self.step_batches, None)
            if step_batch is None:
                return
            self.spent("wait", requested)
            began = began + self._keep(step_batch)
            yield step_batch
            if len(self._kept) == self.steps:
                self.settle()
                self._close(self.clock.times() - began)
                began = self._begin()

    def _begin(self) -> Times:
        began = self.clock.times()
        if self.clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.clock.device)
            self._held = torch.cuda.memory_allocated(self.clock.device)
        return began

    def _gpu_bytes(self) -> int:
        if self.clock.device.type != "cuda":
            return 0
        own = sum(bytes_of(batch) for step_batch in self._kept for batch in step_batch.micro_batches)
        return torch.cuda.max_memory_allocated(self.clock.device) - self._held - own

    def _keep(self, step_batch: StepBatch) -> Times:
        """Copy a batch whose memory is used again and return the time that it took."""
        if self.clock.device.type == "cuda":  # its own memory there
            self._kept.append(step_batch)
            return Times()
        before = own_times()
        self._kept.append(dataclasses.replace(step_batch, micro_batches=copy.deepcopy(step_batch.micro_batches)))
        return own_times() - before

    def _close(self, whole: Times) -> None:
        gpu_bytes, before = self._gpu_bytes(), self.clock.times()
        corrupted = [self.bare.corrupted(step_batch) for step_batch in self._kept]
        ready = self.clock.times()
        for step_batch, batch in zip(self._kept, corrupted, strict=True):
            self.bare.on_corrupted(step_batch, batch)
        self.found.append(
            Round(
                whole=whole,
                bare=self.clock.times() - ready,
                corruption=ready - before,
                phases=self.phases,
                pairs=sum(len(one.keys) for step_batch in self._kept for one in step_batch.micro_batches),
                flops=sum(map(self.flops_of, self._kept)),
                gpu_bytes=gpu_bytes,
            )
        )
        self._kept, self.phases = [], {}


def bytes_of(batch: Batch) -> int:
    """The bytes of a batch's tensors."""
    values = [getattr(part, item.name) for part in (batch, batch.corruption) for item in dataclasses.fields(part)]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


@dataclass(frozen=True, kw_only=True)
class TimedLoop(StageLoop):
    """The loop, which measures how long its parts take."""

    rounds: Rounds

    def _step(self, *arguments: Any) -> None:
        self._timed("step", super()._step, *arguments)

    def _report(self, *arguments: Any) -> None:
        self._timed("report", super()._report, *arguments)

    def _save(self, *arguments: Any, **named: Any) -> None:
        self._timed("save", super()._save, *arguments, **named)

    def _timed(self, phase: str, call: Callable[..., None], *arguments: Any, **named: Any) -> None:
        began = own_times()
        call(*arguments, **named)
        self.rounds.spent(phase, began)


@dataclass(frozen=True, kw_only=True)
class Course:
    """The run to measure and its length."""

    config: RunConfig
    """Its curriculum is `s`."""
    steps: int
    """Steps of a round."""
    num_rounds: int
    save_every: int
    precision: Any


def train_whole(course: Course, *, runtime: Runtime, folder: Path) -> tuple[list[Round], float | None]:
    """Train the sentence stage; return its rounds and the device's peak in operations a second, None if unknown."""
    config = course.config
    (stage,) = curriculum(config.curriculum)
    data = open_stage_data(Path(config.shards), stage)
    readers, context = [Reader(one) for one in data.train], build_context(config, data)
    batch_size = stage.schedule(config.schedule).batch_size
    order = order_pairs(config, stage, readers, blocks=None).order
    stand = Stand(
        preset=dataclasses.replace(get_preset(config.preset), model=config.model),
        batch_size=batch_size,
        num_steps=course.steps * course.num_rounds,
        runtime=runtime,
        execution=Execution(precision=course.precision),
        folder=folder,
        save_every=course.save_every,
    )
    loader = BatchLoader(stage.parts, readers, context, runtime)
    rounds = Rounds(
        step_batches=loader.step_batches(order, start=0, end=stand.num_steps, micro_batch=batch_size),
        bare=PlainStep(stand, stand.model(context)),
        clock=Clock(runtime.device),
        steps=course.steps,
        settle=lambda: loop.saver.wait(),
        flops_of=lambda step_batch: step_flops(config, step_batch),
    )
    plain = stand.loop(stand.model(context), iter(rounds), order)
    parts = {item.name: getattr(plain, item.name) for item in dataclasses.fields(plain)}
    loop = TimedLoop(**parts, rounds=rounds)
    run_loop(loop)
    return rounds.found, peak_flops(runtime.device, course.precision)
