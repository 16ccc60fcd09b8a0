"""The training loop of a stage: next batch, step, report, validate, save."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from msp_ds.data.loading.order import Order
from msp_ds.data.remote.blocks import Blocks
from msp_ds.errors import ShardError
from msp_ds.training.batch_loader import BatchLoader, StepBatch
from msp_ds.training.cadence import Cadence, stop_signal, wait_for_blocks
from msp_ds.training.checkpointing.saving import Saver
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine, learning_rate
from msp_ds.training.guards.finite import BatchInfo, deferred_bool, zeroed
from msp_ds.training.guards.guards import Guards
from msp_ds.training.guards.interrupt import Interrupted, StopRequest
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.throughput import Throughput, memory_scalars
from msp_ds.training.pretraining_model import seed_dropout
from msp_ds.training.validation import Meter, Validation

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageLoop:
    """A stage ready to train: everything is built, loaded and checked."""

    engine: Engine
    loader: BatchLoader
    order: Order
    cadence: Cadence
    validation: Validation | None
    validated: Mapping[str, float] | None = None
    """Results of the validation after step `cadence.start`, if the checkpoint being continued from has them."""
    saver: Saver
    state: Mapping[str, object]
    """What a checkpoint records beside its step and position: seed, batch size, index hashes, configuration."""
    metric_logger: MetricLogger
    throughput: Throughput = field(default_factory=Throughput)
    guards: Guards
    stop: StopRequest
    runtime: Runtime

    def run(self) -> tuple[Path, Mapping[str, float]]:
        """Train what is left of the stage; return its last checkpoint and the results of its last validation.

        Raises:
            Interrupted: Somebody asked to stop; the last step is saved.
            FloatingPointError: Losses were not finite in several steps in a row.
            ShardError: Shards changed or cannot be fetched; the last step is saved.
            InputError: The last checkpoint could not be saved.
        """
        results, meter = self.validated or {}, Meter()
        if self.validated is None and self.cadence.start and self.cadence.ends_epoch(self.cadence.start):
            results = self.validate(self.cadence.start)  # the run was stopped between the step and its validation
        step_batches = self.loader.step_batches(
            self.order,
            start=self.cadence.start,
            end=self.cadence.num_steps,
            micro_batch=self._micro_batch,
            await_blocks=self._await_blocks,
        )
        self.throughput.restart()
        for step_batch in self.throughput.waiting(step_batches):
            self._step(step_batch, meter)
            done = step_batch.step + 1
            ends_epoch = self.cadence.ends_epoch(done)
            if self.cadence.reports(done):
                self._report(done, meter)
                self._stop_if_requested(done)
            if ends_epoch:
                results = self.validate(done)
            if self.cadence.saves(done):
                # After the validation, since the checkpoint holds its results: they choose the best checkpoint, and a
                # run that is killed after the save need not validate again.
                self._save(done, validated=results if ends_epoch else None)
                if ends_epoch:
                    self._check_shards(done)
                self.throughput.restart()  # validating and saving say nothing about the speed of training
        self.saver.finish()
        return self.saver.path(self.cadence.num_steps), results

    def validate(self, done: int) -> dict[str, float]:
        """Return every metric on the held-out pairs after step `done`; empty when nothing is held out.

        Raises Interrupted, after saving, when somebody asked to stop; the resumed run validates again.
        """
        if self.validation is None:
            return {}
        return self.validation.run(done, check_stop=lambda: self._stop_if_requested(done))

    @property
    def _micro_batch(self) -> int:
        return int(self.engine.engine.train_micro_batch_size_per_gpu())

    def _step(self, step_batch: StepBatch, meter: Meter) -> None:
        """Take one optimiser step: a forward and a backward pass per micro batch, then the update."""
        rate = learning_rate(self.engine.optim, step=step_batch.step, num_steps=self.cadence.num_steps)
        self.engine.set_rate(rate)
        # The step and the rank decide the dropout, so that a resumed run repeats it without a saved generator state,
        # and ranks that hold the same weights drop different units.
        seed_dropout(self.order.seed, part=step_batch.part.name, step=step_batch.step, rank=self.runtime.rank)
        are_finite = [self._pass(step_batch, number, meter) for number in range(len(step_batch.micro_batches))]
        self.guards.finite.note(all(are_finite), self.engine.grad_norm)
        self.guards.watchdog.alive(f"after step {step_batch.step + 1} of stage {self.metric_logger.name}")
        self.throughput.add(self.order.batch_size)

    def _pass(self, step_batch: StepBatch, number: int, meter: Meter) -> bool:
        """Run micro batch `number` forward and backward; return whether its loss is finite."""
        losses = step_batch.score(self.engine.engine, number)
        # Read after the backward pass has been queued: reading at once would leave the GPU without work meanwhile.
        is_finite = deferred_bool(losses.total.detach().isfinite())
        self.engine.backward(losses.total)
        self.engine.step()  # updates after the last micro batch, and leaves out a step that is not finite
        metrics = {**losses.metrics, **step_batch.metrics[number]}
        if is_finite():
            meter.add(metrics)
            return True
        # Zero counts, not nothing: all ranks must report the same names.
        meter.add(zeroed(metrics))
        self.guards.finite.note_batch(losses, self._info(step_batch, number))
        return False

    def _info(self, step_batch: StepBatch, number: int) -> BatchInfo:
        """Return what `msp-ds replay` needs to rebuild micro batch `number`."""
        return BatchInfo(
            stage=self.metric_logger.name,
            part=step_batch.part.name,
            tasks=tuple(task.name for task in step_batch.part.tasks),
            step=step_batch.step,
            epoch=step_batch.epoch,
            rank=self.runtime.rank,
            ranks=self.runtime.world_size,
            micro_batch=self._micro_batch,
            number=number,
            num_blocks=self.loader.num_blocks,
            seed=self.order.seed,
            keys=tuple(step_batch.micro_batches[number].keys.tolist()),
            losses={},
        )

    def _report(self, done: int, meter: Meter) -> None:
        """Log the metrics since the last report. Raises FloatingPointError as _check_finite."""
        self._check_finite(done)
        values = meter.read(self.runtime)
        values |= {
            "rate/lr": learning_rate(self.engine.optim, step=done - 1, num_steps=self.cadence.num_steps),
            "norm/grad": float(self.engine.grad_norm),
            "scale/loss": self.engine.loss_scale,
            **self.throughput.read(),
            **memory_scalars(self.runtime.device),
        }
        self.metric_logger.scalars(done, values, epoch=done / self.cadence.batches_per_epoch)
        self.metric_logger.advance(done, values)

    def _check_finite(self, done: int) -> None:
        """Raise FloatingPointError when too many steps in a row were not finite, or the loss scale fell too low."""
        self.guards.finite.check(done)
        if self.engine.loss_scale < self.engine.lowest_loss_scale:
            raise FloatingPointError(
                f"the loss scale fell below {self.engine.lowest_loss_scale} by step {done}: gradients overflow at any "
                "scale; continue with --resume and a bf16 or fp32 --ds-config, or start again with a smaller --lr"
            )

    def _save(self, done: int, *, validated: Mapping[str, float] | None) -> None:
        """Start to save step `done`. validated: results of its validation, None if there was none."""
        epoch, batch = divmod(done, self.order.batches_per_epoch)
        position = {"epoch": epoch, "batch": batch, "pairs": done * self.order.batch_size}
        # Curves first: a run that is killed now and resumed from this checkpoint does not write them again.
        self.metric_logger.flush()
        state = {"step": done, "validated": validated, "position": position, **self.state}
        self.saver.save(self.engine, step=done, state=state)

    def _check_shards(self, done: int) -> None:
        """Raise ShardError, on every rank, when the shards of any rank changed; step `done` is saved."""
        if done == self.cadence.num_steps:
            return
        if message := self.runtime.any_error(self.guards.shards.fault()):
            self.saver.wait()
            raise ShardError(f"{message}, then --resume ({self.saver.failure or f'step {done} is saved'})")

    def _stop_if_requested(self, done: int) -> None:
        """Save step `done` and raise Interrupted, on every rank, when any rank was asked to stop."""
        # Ranks agree only at reports and within validations: to ask at each step would make them wait for each other.
        if signal := stop_signal(self.stop, self.runtime):
            if done > self.cadence.start:  # else it was saved before
                self._save(done, validated=None)
            self._interrupt(signal, done)

    def _interrupt(self, signal: int, done: int) -> NoReturn:
        if not done:
            raise Interrupted(signal, "stopped before the first step; --resume continues")
        self.saver.wait()
        saved = self.saver.failure or f"{self.saver.path(done)} is saved"
        raise Interrupted(signal, f"stopped after step {done}; {saved}, --resume continues")

    def _await_blocks(self, blocks: Blocks, done: int) -> None:
        """Return when every rank has the shards of the batches after step `done`.

        Raises ShardError when a rank cannot have them, and Interrupted when somebody asked to stop, both after saving.
        """
        began = time.monotonic()
        fault, signal = wait_for_blocks(blocks, self.stop, self.runtime, alive=self.guards.watchdog.alive)
        if (fault or signal) and done > self.cadence.start and not self.cadence.saves(done):
            self._check_finite(done)
            self._save(done, validated=None)
        if fault:
            self.saver.wait()
            saved = f"after step {done}, {self.saver.failure or 'which is saved'}" if done else "before the first step"
            raise ShardError(f"{saved}: {fault}; continue with --resume and this --cache-limit")
        if signal:
            self._interrupt(signal, done)
        if (waited := time.monotonic() - began) > 1:
            log.info("%s: waited %.0f s for the next shards after step %d", self.metric_logger.name, waited, done)
