"""How a stage trains: its batches in order, validation after each epoch, a checkpoint at its end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from msp_ds.chance import key_of
from msp_ds.data.order import Order
from msp_ds.errors import InputError, ShardError
from msp_ds.records import Tally
from msp_ds.training.board import Board
from msp_ds.training.engine import Engine, learning_rate
from msp_ds.training.feed import Feed, Portion
from msp_ds.training.interrupt import Interrupted, StopRequest
from msp_ds.training.runtime import Runtime
from msp_ds.training.saving import Saver

log = logging.getLogger(__name__)

REPORT_EVERY = 10
"""Optimiser steps between two reports, at which the host reads what the device has summed up."""
BLOCK_PAUSE = 0.1
"""Seconds between two looks whether a block of shards has come."""
VALIDATION_EPOCH = -1
"""The epoch whose chance poses validation: the same questions every time."""


@dataclass
class Meter:
    """Tallies since the last report, on the device; `read` adds them up over the ranks."""

    tallies: dict[str, Tally] = field(default_factory=dict)

    def add(self, tallies: Mapping[str, Tally]) -> None:
        """Adds one batch's tallies."""
        for name, tally in tallies.items():
            self.tallies[name] = self.tallies[name] + tally if name in self.tallies else tally

    def read(self, runtime: Runtime) -> dict[str, float]:
        """The mean of each tally over all ranks (every rank must call it), then starts anew."""
        names = sorted(self.tallies)
        if not names:
            return {}
        columns = [torch.stack((self.tallies[name].total, self.tallies[name].count)) for name in names]
        sums = runtime.sum(torch.stack(columns)).tolist()
        self.tallies = {}
        return {name: total / count if count else math.nan for name, (total, count) in zip(names, sums, strict=True)}


@dataclass(frozen=True, kw_only=True)
class StageLoop:
    """A stage ready to train: everything is built, loaded and checked."""

    engine: Engine
    feed: Feed
    order: Order
    validation: Feed | None
    board: Board
    runtime: Runtime
    stop: StopRequest
    saver: Saver
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

    def run(self) -> tuple[Path, Mapping[str, float]]:
        """Trains steps `start` to num_steps - 1; returns the last checkpoint and the last validation.

        Raises Interrupted, after saving, when somebody asked to stop; FloatingPointError when a loss is not finite;
        InputError when the last checkpoint could not be saved.
        """
        results = self.validated or {}
        if self.validated is None and self.start and self._epoch_ends(self.start):  # it was stopped before
            results = self.validate(self.start)
        meter, began, pairs = Meter(), time.monotonic(), 0
        micro_batch = self.engine.engine.train_micro_batch_size_per_gpu()
        for portion in self.feed.portions(
            self.order,
            start=self.start,
            end=self.num_steps,
            micro_batch=micro_batch,
            await_blocks=lambda step: self._await_blocks(step, meter),
        ):
            self._step(portion, meter)
            done, pairs = portion.step + 1, pairs + self.order.batch_size
            epoch_ends = self._epoch_ends(done)
            saves = self._saves(done)
            if saves or done % REPORT_EVERY == 0:  # a report also keeps a loss that is not finite out of a checkpoint
                self._report(done, meter, pairs / (time.monotonic() - began))
                began, pairs = time.monotonic(), 0
                self._stop_if_asked(done)
            if epoch_ends:
                results = self.validate(done)
            if saves:
                self._save(done, validated=results if epoch_ends else None)
                began = time.monotonic()
        self.saver.finish()
        return self.saver.path(self.num_steps), results

    def _epoch_ends(self, done: int) -> bool:
        """Whether step `done` is followed by a validation."""
        return done % self.order.batches_per_epoch == 0 or done == self.num_steps

    def _saves(self, done: int) -> bool:
        """Whether step `done` is followed by a checkpoint."""
        return self._epoch_ends(done) or done % self.save_every == 0

    def _step(self, portion: Portion, meter: Meter) -> None:
        """One optimiser step. Dropout is seeded by the step, so that a resumed run needs no generator state."""
        self.engine.set_rate(learning_rate(self.engine.optim, step=portion.step, num_steps=self.num_steps))
        torch.manual_seed(key_of(f"dropout {self.seed} {portion.part.name} {portion.step} {self.runtime.rank}"))
        for batch, tallies, rooms in zip(portion.micro_batches, portion.tallies, portion.rooms, strict=True):
            losses = self.engine.engine(batch, portion.part.tasks, portion.epoch, rooms)
            self.engine.backward(losses.total)
            self.engine.step()
            meter.add({**losses.tallies, **tallies})

    def _report(self, done: int, meter: Meter, speed: float) -> None:
        values = meter.read(self.runtime)
        self._check_finite(done, values)
        values |= {
            "rate/lr": learning_rate(self.engine.optim, step=done - 1, num_steps=self.num_steps),
            "norm/grad": float(self.engine.grad_norm),
            "scale/loss": self.engine.loss_scale,
            "speed/pairs_per_s": speed,
        }
        self.board.scalars(done, values)
        self.board.advance(done, values)

    def _check_finite(self, done: int, values: Mapping[str, float]) -> None:
        """Raises FloatingPointError when a loss since the last report, or the last gradient, is not finite."""
        norm = float(self.engine.grad_norm)
        bad = sorted(name for name, value in values.items() if name.startswith("loss/") and not math.isfinite(value))
        if self.engine.execution.precision != "fp16" and not math.isfinite(norm):  # fp16 leaves such a step out
            bad.append("the gradient's norm")
        if bad:
            raise FloatingPointError(
                f"{', '.join(bad)} is not finite by step {done} of stage {self.board.name}; the last checkpoint is "
                "whole: continue from it with --resume, or start again with a smaller --lr"
            )
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
        return int(self.runtime.largest(torch.tensor(self.stop.signal, device=self.runtime.device)))

    def _stop(self, asked: int, done: int) -> NoReturn:
        if not done:
            raise Interrupted(asked, "stopped before the first step; --resume continues")
        self.saver.wait()
        told = self.saver.failure or f"{self.saver.path(done)} is saved"
        raise Interrupted(asked, f"stopped after step {done}; {told}, --resume continues")

    def _await_blocks(self, done: int, meter: Meter) -> None:
        """All ranks go on after step `done` when each has its blocks; what one cannot have, ends the run for all.

        Raises ShardError and, when somebody asked to stop, Interrupted, both after saving.
        """
        began, fault, ready = time.monotonic(), "", False
        while True:
            try:
                ready = self.feed.blocks is None or self.feed.blocks.ready()
            except InputError as error:
                fault = str(error)
            said, asked = self.runtime.any_says(fault), self._asked_to_stop()
            if said or asked:
                self._save_amid_epoch(done, meter)
            if said:
                self.saver.wait()
                kept = self.saver.failure or "which is saved"
                saved = f"after step {done}, {kept}" if done else "before the first step"
                raise ShardError(f"{saved}: {said}; continue with --resume and this --cache-limit")
            if asked:
                self._stop(asked, done)
            if not int(self.runtime.largest(torch.tensor(int(not ready), device=self.runtime.device))):
                break
            time.sleep(BLOCK_PAUSE)
        waited = time.monotonic() - began
        if waited > 1:
            log.info("%s: waited %.0f s for the next shards after step %d", self.board.name, waited, done)

    def _save_amid_epoch(self, done: int, meter: Meter) -> None:
        """Saves a step that has not been, unless a loss since the last report is not finite."""
        if done > self.start and not self._saves(done):
            self._check_finite(done, meter.read(self.runtime))
            self._save(done, validated=None)

    def _save(self, done: int, *, validated: Mapping[str, float] | None) -> None:
        epoch, batch = divmod(done, self.order.batches_per_epoch)
        position = {"epoch": epoch, "batch": batch, "pairs": done * self.order.batch_size}
        self.board.flush()
        state = {"step": done, "validated": validated, "position": position, **self.state}
        self.saver.save(self.engine, step=done, state=state)

    @torch.no_grad()
    def validate(self, done: int) -> dict[str, float]:
        """Every metric on the held-out pairs, posed alike each time; each rank takes its share of them.

        Raises Interrupted, after saving, when somebody asked to stop; the resumed run validates again.
        """
        if self.validation is None:
            return {}
        meter, feed, rank, num_read = Meter(), self.validation, self.runtime.rank, 0
        self.engine.engine.eval()
        for number, part in enumerate(feed.parts):
            pairs = torch.arange(len(feed.readers[number].keys))
            # The same number of forward passes on every rank, which ZeRO-3 waits for.
            num_batches = -(-len(pairs) // (self.runtime.world_size * self.order.batch_size))
            for rows in torch.tensor_split(pairs[rank :: self.runtime.world_size], num_batches):
                batch = feed.read(number, rows, epoch=VALIDATION_EPOCH)
                meter.add(self.engine.engine(batch, part.tasks, VALIDATION_EPOCH).tallies)
                num_read += 1
                if num_read % REPORT_EVERY == 0:
                    self._stop_if_asked(done)
        self.engine.engine.train()
        values = meter.read(self.runtime)
        self.board.scalars(done, {f"validation/{name}": value for name, value in values.items()})
        return values
