"""How a stage trains: its batches in order, validation after each epoch, a checkpoint at its end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from msp_ds.data.loading.order import Order
from msp_ds.errors import InputError, ShardError
from msp_ds.records import MeanMetric
from msp_ds.stateless_random import DROPOUT, key_of
from msp_ds.training.batch_loader import BatchLoader, StepBatch
from msp_ds.training.checkpointing.saving import Saver
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine, learning_rate
from msp_ds.training.guards.finite import BatchInfo, deferred_bool, zeroed
from msp_ds.training.guards.guards import Guards
from msp_ds.training.guards.interrupt import Interrupted, StopRequest
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.throughput import Throughput, memory_scalars

log = logging.getLogger(__name__)

REPORT_EVERY = 10
"""Optimiser steps between two reports, at which the host reads what the device has summed up."""
BLOCK_PAUSE = 0.1
"""Seconds between two looks whether a block of shards has come."""
VALIDATION_ROOM = 4
"""Micro batches that fit at once where nothing is kept for a backward pass."""
VALIDATION_EPOCH = -1
"""The epoch whose chance corrupts validation: the same questions every time."""


@dataclass
class Meter:
    """Metrics since the last report, on the device; `read` adds them up over the ranks."""

    metrics: dict[str, MeanMetric] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, MeanMetric]) -> None:
        """Adds one batch's metrics."""
        for name, metric in metrics.items():
            self.metrics[name] = self.metrics[name] + metric if name in self.metrics else metric

    def read(self, runtime: Runtime) -> dict[str, float]:
        """The mean of each metric over all ranks (every rank must call it), then starts again."""
        names = sorted(self.metrics)
        if not names:
            return {}
        columns = [torch.stack((self.metrics[name].total, self.metrics[name].count)) for name in names]
        sums = runtime.sum(torch.stack(columns)).tolist()
        self.metrics = {}
        return {name: total / count if count else math.nan for name, (total, count) in zip(names, sums, strict=True)}


@dataclass(frozen=True, kw_only=True)
class StageLoop:
    """A stage ready to train: everything is built, loaded and checked."""

    engine: Engine
    loader: BatchLoader
    order: Order
    validation: BatchLoader | None
    metric_logger: MetricLogger
    runtime: Runtime
    stop: StopRequest
    saver: Saver
    guards: Guards
    state: Mapping[str, object]
    """What a checkpoint says beside its step and position: seed, batch size, index hashes, configuration."""
    seed: int
    num_steps: int
    save_every: int
    """Optimiser steps between two checkpoints; one is saved after each epoch too."""
    start: int = 0
    """Steps that the checkpoint being continued from had done."""
    validated: Mapping[str, float] | None = None
    """The validation after step `start`, if the checkpoint has it."""
    throughput: Throughput = field(default_factory=Throughput)
    show: Callable[[int], None] = field(default=lambda step: None)
    """Shows what the model says of a few held-out pairs; every rank calls it after a validation, in evaluation mode."""

    def run(self) -> tuple[Path, Mapping[str, float]]:
        """Trains steps `start` to num_steps - 1; returns the last checkpoint and the last validation.

        Raises Interrupted, after saving, when somebody asked to stop; FloatingPointError when losses are not finite in
        several steps in a row; ShardError when shards changed; InputError when the last checkpoint could not be saved.
        """
        results = self.validated or {}
        if self.validated is None and self.start and self._epoch_ends(self.start):  # it was stopped before
            results = self.validate(self.start)
        meter = Meter()
        step_batches = self.loader.step_batches(
            self.order,
            start=self.start,
            end=self.num_steps,
            micro_batch=self.engine.engine.train_micro_batch_size_per_gpu(),
            await_blocks=self._await_blocks,
        )
        self.throughput.restart()
        for step_batch in self.throughput.waiting(step_batches):
            self._step(step_batch, meter)
            done = step_batch.step + 1
            self.throughput.add(self.order.batch_size)
            epoch_ends = self._epoch_ends(done)
            saves = self._saves(done)
            if saves or done % REPORT_EVERY == 0:
                self._report(done, meter)
                self._stop_if_asked(done)
            if epoch_ends:
                results = self.validate(done)
            if saves:
                self._save(done, validated=results if epoch_ends else None)
                if epoch_ends:
                    self._look_at_shards(done)
                self.throughput.restart()
        self.saver.finish()
        return self.saver.path(self.num_steps), results

    def _epoch_ends(self, done: int) -> bool:
        """Whether step `done` is followed by a validation."""
        return done % self.order.batches_per_epoch == 0 or done == self.num_steps

    def _saves(self, done: int) -> bool:
        """Whether step `done` is followed by a checkpoint."""
        return self._epoch_ends(done) or done % self.save_every == 0

    def _step(self, step_batch: StepBatch, meter: Meter) -> None:
        """One optimiser step. Dropout is seeded by the step, so that a resumed run needs no generator state."""
        self.engine.set_rate(learning_rate(self.engine.optim, step=step_batch.step, num_steps=self.num_steps))
        of_step = {"part": step_batch.part.name, "step": step_batch.step, "rank": self.runtime.rank}
        torch.manual_seed(key_of(DROPOUT.format(seed=self.seed, **of_step)))
        all_finite = True
        passes = zip(step_batch.micro_batches, step_batch.metrics, step_batch.padded_counts, strict=True)
        for number, (batch, metrics, padded_counts) in enumerate(passes):
            losses = self.engine.engine(batch, step_batch.part.tasks, step_batch.epoch, padded_counts)
            is_finite = deferred_bool(losses.total.detach().isfinite())
            self.engine.backward(losses.total)
            self.engine.step()
            if is_finite():
                meter.add({**losses.metrics, **metrics})
            else:
                all_finite = False
                meter.add(zeroed({**losses.metrics, **metrics}))
                self.guards.finite.keep(losses, self._info(step_batch, number))
        self.guards.finite.note(all_finite, self.engine.grad_norm)
        self.guards.watchdog.alive(f"after step {step_batch.step + 1} of stage {self.metric_logger.name}")

    def _info(self, step_batch: StepBatch, number: int) -> BatchInfo:
        """What the batch of a forward pass is rebuilt from."""
        blocks = self.loader.blocks
        return BatchInfo(
            stage=self.metric_logger.name,
            part=step_batch.part.name,
            tasks=tuple(task.name for task in step_batch.part.tasks),
            step=step_batch.step,
            epoch=step_batch.epoch,
            rank=self.runtime.rank,
            ranks=self.runtime.world_size,
            micro_batch=self.engine.engine.train_micro_batch_size_per_gpu(),
            number=number,
            num_blocks=1 if blocks is None else blocks.plan.num_blocks,
            seed=self.seed,
            keys=tuple(step_batch.micro_batches[number].keys.tolist()),
            losses={},
        )

    def _report(self, done: int, meter: Meter) -> None:
        self._check_finite(done)
        values = meter.read(self.runtime)
        values |= {
            "rate/lr": learning_rate(self.engine.optim, step=done - 1, num_steps=self.num_steps),
            "norm/grad": float(self.engine.grad_norm),
            "scale/loss": self.engine.loss_scale,
            **self.throughput.read(),
            **memory_scalars(self.runtime.device),
        }
        self.metric_logger.scalars(done, values, epoch=self._epochs(done))
        self.metric_logger.advance(done, values)

    def _check_finite(self, done: int) -> None:
        """Raises FloatingPointError when too many steps in a row were not finite, or the loss scale fell too low."""
        self.guards.finite.check(done)
        if self.engine.loss_scale < self.engine.lowest_loss_scale:
            raise FloatingPointError(
                f"the loss scale fell below {self.engine.lowest_loss_scale} by step {done}: gradients overflow at any "
                "scale; continue with --resume and a bf16 or fp32 --ds-config, or start again with a smaller --lr"
            )

    def _stop_if_asked(self, done: int) -> None:
        """All ranks stop at the same step, whichever of them was asked."""
        if asked := self._asked_to_stop():
            if done > self.start:  # else it is there already
                self._save(done, validated=None)
            self._stop(asked, done)

    def _asked_to_stop(self) -> int:
        """The signal that any rank was sent, 0 for none."""
        return int(self.runtime.all_reduce_max(torch.tensor(self.stop.signal, device=self.runtime.device)))

    def _stop(self, asked: int, done: int) -> NoReturn:
        if not done:
            raise Interrupted(asked, "stopped before the first step; --resume continues")
        self.saver.wait()
        told = self.saver.failure or f"{self.saver.path(done)} is saved"
        raise Interrupted(asked, f"stopped after step {done}; {told}, --resume continues")

    def _await_blocks(self, done: int) -> None:
        """All ranks go on after step `done` when each has its blocks; what one cannot have, ends the run for all.

        Raises ShardError and, when somebody asked to stop, Interrupted, both after saving.
        """
        began, fault, ready = time.monotonic(), "", False
        while True:
            try:
                ready = self.loader.blocks is None or self.loader.blocks.ready()
            except InputError as error:
                fault = str(error)
            said, asked = self.runtime.any_error(fault), self._asked_to_stop()
            if said or asked:
                self._save_amid_epoch(done)
            if said:
                self.saver.wait()
                kept = self.saver.failure or "which is saved"
                saved = f"after step {done}, {kept}" if done else "before the first step"
                raise ShardError(f"{saved}: {said}; continue with --resume and this --cache-limit")
            if asked:
                self._stop(asked, done)
            if not int(self.runtime.all_reduce_max(torch.tensor(int(not ready), device=self.runtime.device))):
                break
            self.guards.watchdog.alive()
            time.sleep(BLOCK_PAUSE)
        waited = time.monotonic() - began
        if waited > 1:
            log.info("%s: waited %.0f s for the next shards after step %d", self.metric_logger.name, waited, done)

    def _save_amid_epoch(self, done: int) -> None:
        """Saves a step that has not been."""
        if done > self.start and not self._saves(done):
            self._check_finite(done)
            self._save(done, validated=None)

    def _save(self, done: int, *, validated: Mapping[str, float] | None) -> None:
        epoch, batch = divmod(done, self.order.batches_per_epoch)
        position = {"epoch": epoch, "batch": batch, "pairs": done * self.order.batch_size}
        self.metric_logger.flush()
        state = {"step": done, "validated": validated, "position": position, **self.state}
        self.saver.save(self.engine, step=done, state=state)

    def _look_at_shards(self, done: int) -> None:
        """Raises ShardError, on every rank, when the shards of any changed; step `done` is saved."""
        if done < self.num_steps and (said := self.runtime.any_error(self.guards.shards.fault())):
            self.saver.wait()
            raise ShardError(f"{said}, then --resume ({self.saver.failure or f'step {done} is saved'})")

    @torch.no_grad()
    def validate(self, done: int) -> dict[str, float]:
        """Every metric on the held-out pairs, corrupted alike each time; each rank takes its share of them.

        Raises Interrupted, after saving, when somebody asked to stop; the resumed run validates again.
        """
        if self.validation is None:
            return {}
        meter, loader, rank, num_read = Meter(), self.validation, self.runtime.rank, 0
        size = min(self.order.batch_size, VALIDATION_ROOM * self.engine.engine.train_micro_batch_size_per_gpu())
        with self.engine.evaluating():
            for number, part in enumerate(loader.parts):
                pairs = torch.arange(len(loader.readers[number].keys))
                # The same number of forward passes on every rank, which ZeRO-3 waits for.
                num_batches = -(-len(pairs) // (self.runtime.world_size * size))
                parts = torch.tensor_split(pairs[rank :: self.runtime.world_size], num_batches)
                for place, rows in enumerate(parts, start=1):
                    self.metric_logger.doing = f"validation, batch {place:,} of {num_batches:,}"
                    batch = loader.read(number, rows, epoch=VALIDATION_EPOCH)
                    meter.add(self.engine.engine(batch, part.tasks, VALIDATION_EPOCH).metrics)
                    num_read += 1
                    self.guards.watchdog.alive()
                    if num_read % REPORT_EVERY == 0:
                        self._stop_if_asked(done)
            values = meter.read(self.runtime)
            self.metric_logger.scalars(done, values, epoch=self._epochs(done), report="validation")
            self.show(done)
        self.metric_logger.doing = ""
        return values

    def _epochs(self, done: int) -> float:
        """How many epochs `done` steps are."""
        return done / self.order.batches_per_epoch
