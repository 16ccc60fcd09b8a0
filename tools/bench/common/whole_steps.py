"""Steps of the whole way, from the shards to the checkpoint, and bare ones on the same corrupted batches, in turns."""

from __future__ import annotations

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
from tools.bench.common.figures import Clock
from tools.bench.common.replayed_loop import PlainStep, Stand


@dataclass(frozen=True)
class Moment:
    """Where the clocks stand."""

    seconds: float
    """CPU seconds of the process, its background threads included; on a GPU the wall's, its work finished."""
    thread: float
    """CPU seconds of the training loop's own thread."""
    wall: float

    def __sub__(self, other: Moment) -> Moment:
        return Moment(self.seconds - other.seconds, self.thread - other.thread, self.wall - other.wall)

    def __add__(self, other: Moment) -> Moment:
        return Moment(self.seconds + other.seconds, self.thread + other.thread, self.wall + other.wall)


NOTHING = Moment(0.0, 0.0, 0.0)


def own_now() -> Moment:
    """Where the clocks of this thread stand; a GPU is not waited for."""
    thread = time.thread_time()
    return Moment(thread, thread, time.perf_counter())


@dataclass(frozen=True, kw_only=True)
class Round:
    """Some steps the whole way, and as many bare ones."""

    whole: Moment
    bare: Moment
    corruption: Moment
    phases: dict[str, Moment]
    """Of `whole`: `wait`, `step`, `report`, `save`."""
    pairs: int
    flops: float
    """Of the portions' multiplications."""
    gpu_bytes: int = 0
    """Most that a GPU held more than before the round, the round's batches left out."""


@dataclass(kw_only=True)
class Rounds:
    """The loop asks for a portion; after every few steps the bare ones have their turn, when nobody reads or writes."""

    step_batches: Iterator[StepBatch]
    bare: PlainStep
    clock: Clock
    steps: int
    settle: Callable[[], None]
    """Waits for what is being written; counts as part of the whole way."""
    flops_of: Callable[[StepBatch], float]
    phases: dict[str, Moment] = field(default_factory=dict)
    found: list[Round] = field(default_factory=list)
    _kept: list[StepBatch] = field(default_factory=list)
    _held: int = 0

    def now(self) -> Moment:
        """Where the clocks stand; a GPU's work is waited for."""
        return Moment(self.clock.now(), time.thread_time(), time.perf_counter())

    def spent(self, phase: str, began: Moment) -> None:
        """Adds what has passed since `began`, on the loop's own thread, to a phase."""
        self.phases[phase] = self.phases.get(phase, NOTHING) + (own_now() - began)

    def __iter__(self) -> Iterator[StepBatch]:
        began = self._begin()
        while True:
            requested = own_now()
            step_batch = next(self.step_batches, None)
            if step_batch is None:
                return
            self.spent("wait", requested)
            began = began + self._keep(step_batch)
            yield step_batch
            if len(self._kept) == self.steps:
                self.settle()
                self._close(self.now() - began)
                began = self._begin()

    def _begin(self) -> Moment:
        began = self.now()
        if self.clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.clock.device)
            self._held = torch.cuda.memory_allocated(self.clock.device)
        return began

    def _gpu_bytes(self) -> int:
        if self.clock.device.type != "cuda":
            return 0
        own = sum(bytes_of(batch) for step_batch in self._kept for batch in step_batch.micro_batches)
        return torch.cuda.max_memory_allocated(self.clock.device) - self._held - own

    def _keep(self, step_batch: StepBatch) -> Moment:
        """Copies a portion whose memory is used again. What that took: the reader's thread goes on meanwhile."""
        if self.clock.device.type == "cuda":  # its own memory there
            self._kept.append(step_batch)
            return NOTHING
        before = own_now()
        copies = tuple(copied(batch) for batch in step_batch.micro_batches)
        self._kept.append(dataclasses.replace(step_batch, micro_batches=copies))
        return own_now() - before

    def _close(self, whole: Moment) -> None:
        gpu_bytes, before = self._gpu_bytes(), self.now()
        corrupted = [self.bare.corrupted(step_batch) for step_batch in self._kept]
        ready = self.now()
        for step_batch, batch in zip(self._kept, corrupted, strict=True):
            self.bare.on_corrupted(step_batch, batch)
        self.found.append(
            Round(
                whole=whole,
                bare=self.now() - ready,
                corruption=ready - before,
                phases=self.phases,
                pairs=sum(len(one.keys) for step_batch in self._kept for one in step_batch.micro_batches),
                flops=sum(map(self.flops_of, self._kept)),
                gpu_bytes=gpu_bytes,
            )
        )
        self._kept, self.phases = [], {}


def tensors_of(value: Any) -> dict[str, torch.Tensor]:
    """The tensors among the fields of a batch or of its marks."""
    named = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return {name: one for name, one in named.items() if isinstance(one, torch.Tensor)}


def copied(batch: Batch) -> Batch:
    """The same batch in memory of its own."""
    own = {name: one.clone() for name, one in tensors_of(batch).items()}
    corruption = {name: one.clone() for name, one in tensors_of(batch.corruption).items()}
    return dataclasses.replace(batch, **own, corruption=dataclasses.replace(batch.corruption, **corruption))


def bytes_of(batch: Batch) -> int:
    """Of its tensors."""
    return sum(one.nbytes for part in (batch, batch.corruption) for one in tensors_of(part).values())


@dataclass(frozen=True, kw_only=True)
class TimedLoop(StageLoop):
    """The loop, which tells how long its parts take."""

    rounds: Rounds

    def _step(self, *arguments: Any) -> None:
        self._timed("step", super()._step, *arguments)

    def _report(self, *arguments: Any) -> None:
        self._timed("report", super()._report, *arguments)

    def _save(self, *arguments: Any, **named: Any) -> None:
        self._timed("save", super()._save, *arguments, **named)

    def _timed(self, phase: str, call: Callable[..., None], *arguments: Any, **named: Any) -> None:
        began = own_now()
        call(*arguments, **named)
        self.rounds.spent(phase, began)


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is trained, and how much of it."""

    config: RunConfig
    """Its curriculum is `s`."""
    steps: int
    """Of a round."""
    num_rounds: int
    save_every: int
    precision: Any


def train_whole(course: Course, *, runtime: Runtime, folder: Path) -> tuple[list[Round], float | None]:
    """Trains the sentence stage; its rounds, and the device's peak in operations a second where that is known."""
    config = course.config
    (stage,) = curriculum(config.curriculum)
    data = open_stage_data(Path(config.shards), stage)
    execution = Execution(precision=course.precision)
    readers, context = [Reader(one) for one in data.train], build_context(config, data)
    batch_size = stage.schedule(config.schedule).batch_size
    order = order_pairs(config, stage, readers, blocks=None).order
    stand = Stand(
        preset=dataclasses.replace(get_preset(config.preset), model=config.model),
        batch_size=batch_size,
        num_steps=course.steps * course.num_rounds,
        runtime=runtime,
        execution=execution,
        folder=folder,
        save_every=course.save_every,
    )
    loader = BatchLoader(stage.parts, readers, context, runtime)
    step_batches = loader.step_batches(order, start=0, end=stand.num_steps, micro_batch=batch_size)
    rounds = Rounds(
        step_batches=step_batches,
        bare=stand.plain_step(stand.model(context)),
        clock=Clock(runtime.device),
        steps=course.steps,
        settle=lambda: loop.saver.wait(),
        flops_of=lambda step_batch: step_flops(config, step_batch),
    )
    plain = stand.loop(stand.model(context), iter(rounds), order)
    parts = {item.name: getattr(plain, item.name) for item in dataclasses.fields(plain)}
    loop = TimedLoop(**parts, rounds=rounds)
    with loop.guards.watching():
        loop.run()
    loop.metric_logger.close()
    loop.saver.close()
    return rounds.found, peak_flops(runtime.device, course.precision)
