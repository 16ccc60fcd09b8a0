"""The training loop of a stage on batches from a benchmark, which can measure between two steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msp_ds.curriculum import STAGES, Granularity
from msp_ds.data.loading.order import Order
from msp_ds.model.encoder import Backbone
from msp_ds.presets import Preset
from msp_ds.records import Batch, Losses
from msp_ds.tasks.targets import count_targets
from msp_ds.tasks.task import Context, corrupt
from msp_ds.training.batch_loader import BatchLoader, StepBatch
from msp_ds.training.cadence import Cadence
from msp_ds.training.checkpointing.saving import Saver
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine, build_optimizer, learning_rate
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.guards import build_guards
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.guards.limits import Limits
from msp_ds.training.loop import StageLoop
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.pretraining_model import NOT_COUNTED, PretrainingModel
from tools.bench.common.step_pool import on_device

SENTENCE: Granularity = next(part for part in STAGES if part.name == "sentence")


class Replay(BatchLoader):
    """Hands out what an iterator yields; while the loop waits for a batch, the iterator can do other work."""

    def __init__(self, step_batches: Iterator[StepBatch], runtime: Runtime) -> None:
        self.parts, self.readers, self.blocks, self.runtime = (SENTENCE,), (), None, runtime
        self._step_batches = step_batches

    def step_batches(self, *_: Any, **__: Any) -> Iterator[StepBatch]:
        """Return the iterator; the arguments are ignored."""
        return self._step_batches


def run_loop(loop: StageLoop) -> None:
    """Run a loop to its end and close its files."""
    with loop.guards.watching():
        loop.run()
    loop.metric_logger.close()
    loop.saver.close()


class NotSaved(Saver):
    """A Saver that writes no checkpoints."""

    def save(self, engine: Engine, *, step: int, state: Mapping[str, Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A preset's sentence stage, to be trained by the real loop or by a plain one."""

    preset: Preset
    batch_size: int
    """Pairs in an optimiser step, over all ranks."""
    num_steps: int
    runtime: Runtime
    execution: Execution
    folder: Path
    """Where the loop writes its curves."""
    save_every: int | None = None
    """Steps between two checkpoints; None: nothing is saved."""

    def model(self, context: Context) -> PretrainingModel:
        """Build the model with the same weights each time, on the device."""
        torch.manual_seed(0)
        there = on_device(context, self.runtime.device)
        return PretrainingModel(Backbone(self.preset.model), SENTENCE.tasks, there).to(self.runtime.device)

    def step_batch(self, step: int, batch: Batch, context: Context) -> StepBatch:
        """Return a batch as BatchLoader hands it over."""
        device = self.runtime.device
        counts = count_targets(batch, SENTENCE.tasks, context) if device.type == "cuda" else NOT_COUNTED
        there = batch.to(device)
        return StepBatch(
            step=step, epoch=0, part=SENTENCE, micro_batches=(there,), metrics=({},), padded_counts=(counts,)
        )

    def loop(self, model: PretrainingModel, step_batches: Iterator[StepBatch], order: Order) -> StageLoop:
        """Build the real loop around a model and batches."""
        runtime, folder, optim, num_steps = self.runtime, self.folder, self.preset.optim, self.num_steps
        precision = self.execution.precision
        return StageLoop(
            engine=Engine(model, optim=optim, execution=self.execution, batch_size=self.batch_size, runtime=runtime),
            loader=Replay(step_batches, runtime),
            order=order,
            cadence=Cadence(
                num_steps=num_steps,
                batches_per_epoch=order.batches_per_epoch,
                save_every=self.save_every or num_steps,
            ),
            validation=None,
            metric_logger=MetricLogger(folder, name="sentence", num_steps=num_steps, start=0, speaks=runtime.is_first),
            runtime=runtime,
            stop=StopRequest(),
            saver=(NotSaved if self.save_every is None else Saver)(folder / "checkpoints", keep=1, runtime=runtime),
            guards=build_guards(Limits(), folder, (), stage="sentence", precision=precision, runtime=runtime),
            state={},
        )


class PlainStep:
    """A step of the same mathematics in plain torch: forward, backward, clipping and AdamW."""

    def __init__(self, stand: Stand, model: PretrainingModel) -> None:
        self._stand, self._model = stand, model
        self._optimizer = build_optimizer(model, stand.preset.optim)
        self._half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(stand.execution.precision)

    def __call__(self, step_batch: StepBatch) -> Tensor:
        """Corrupt a batch, train on it and return its loss."""
        return self._step(step_batch, lambda: step_batch.score(self._model, 0))

    def corrupted(self, step_batch: StepBatch) -> Batch:
        """Return the corrupted batch."""
        return corrupt(step_batch.micro_batches[0], step_batch.part.tasks, self._context(step_batch))

    def on_corrupted(self, step_batch: StepBatch, corrupted: Batch) -> Tensor:
        """Train on one batch that is corrupted already and return its loss."""
        clean, tasks, context = step_batch.micro_batches[0], step_batch.part.tasks, self._context(step_batch)
        return self._step(step_batch, lambda: self._model.answer(clean, corrupted, tasks, context))

    def _context(self, step_batch: StepBatch) -> Context:
        return dataclasses.replace(
            self._model.context, epoch=step_batch.epoch, padded_counts=step_batch.padded_counts[0]
        )

    def _step(self, step_batch: StepBatch, losses: Callable[[], Losses]) -> Tensor:
        stand, optim = self._stand, self._stand.preset.optim
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(optim, step=step_batch.step, num_steps=stand.num_steps)
        with torch.autocast(stand.runtime.device.type, dtype=self._half, enabled=self._half is not None):
            loss = losses().total
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss
