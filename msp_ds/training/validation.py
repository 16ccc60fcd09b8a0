"""Validation: every metric of a stage on its held-out pairs."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from msp_ds.records import MeanMetric
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.cadence import Cadence
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine
from msp_ds.training.guards.watchdog import Watchdog
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.metric_texts import sample_text
from msp_ds.training.monitoring.sample_picture import draw_sample
from msp_ds.training.monitoring.samples import Names, predict_samples, spread_pairs

VALIDATION_EPOCH = -1
"""The epoch whose random numbers corrupt the held-out pairs. It is always the same, and no epoch of training, so that
validations differ by the model alone."""
NO_GRADIENT_FACTOR = 4
"""Micro batches of training that fit into one forward pass which keeps nothing for a backward pass."""
NUM_SAMPLES, NUM_PICTURES = 6, 3  # held-out pairs whose predictions are logged as texts and as pictures


@dataclass
class Meter:
    """Metrics since the last `read`, as sums and counts on the device."""

    metrics: dict[str, MeanMetric] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, MeanMetric]) -> None:
        """Add one batch's metrics."""
        for name, metric in metrics.items():
            self.metrics[name] = self.metrics[name] + metric if name in self.metrics else metric

    def read(self, runtime: Runtime) -> dict[str, float]:
        """Return each metric's mean over all ranks, nan for no count, and start again; every rank must call it."""
        names = sorted(self.metrics)
        if not names:
            return {}
        # All metrics travel as one tensor: one wait for the device and one message between the ranks.
        columns = [torch.stack((self.metrics[name].total, self.metrics[name].count)) for name in names]
        sums = runtime.sum(torch.stack(columns)).tolist()
        self.metrics = {}
        return {name: total / count if count else math.nan for name, (total, count) in zip(names, sums, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Scores the held-out pairs of a stage, corrupted in the same way each time."""

    loader: BatchLoader
    engine: Engine
    cadence: Cadence
    metric_logger: MetricLogger
    watchdog: Watchdog
    batch_size: int  # pairs of an optimiser step; no batch of the validation is larger

    @torch.no_grad()
    def run(self, done: int, *, check_stop: Callable[[], None]) -> dict[str, float]:
        """Return every metric after step `done`, over all ranks; each rank scores its part of the pairs.

        check_stop: called now and then, at the same batch on every rank; it may raise to leave the validation.
        """
        meter, batches = Meter(), list(self._batches())
        with self.engine.evaluating():
            for number, (part, pairs) in enumerate(batches, start=1):
                self.metric_logger.doing = f"validation, batch {number:,} of {len(batches):,}"
                batch = self.loader.read(part, pairs, epoch=VALIDATION_EPOCH)
                meter.add(self.engine.engine(batch, self.loader.parts[part].tasks, VALIDATION_EPOCH).metrics)
                self.watchdog.alive()
                if number % self.cadence.report_every == 0:
                    check_stop()
            values = meter.read(self.loader.runtime)
            self.metric_logger.scalars(done, values, epoch=done / self.cadence.batches_per_epoch, report="validation")
            self.show_samples(done)
        self.metric_logger.doing = ""
        return values

    @cached_property
    def _names(self) -> Names:
        return Names.of(self.loader.readers[-1])

    def show_samples(self, done: int) -> None:
        """Log what the model predicts for a few pairs of the last granularity; every rank must call it."""
        part, reader, model = self.loader.parts[-1], self.loader.readers[-1], self.engine.engine.module
        pairs, tasks = spread_pairs(reader, NUM_SAMPLES), part.tasks
        samples = predict_samples(model, reader, pairs, tasks=tasks, epoch=VALIDATION_EPOCH, names=self._names)
        if self.metric_logger.speaks and samples:
            self.metric_logger.text("samples", sample_text(samples), step=done)
            for number, sample in enumerate(samples[:NUM_PICTURES], start=1):
                self.metric_logger.picture(f"pairs/{number}", draw_sample(sample), step=done)

    def _batches(self) -> Iterator[tuple[int, Tensor]]:
        """Yield this rank's batches: the number of the granularity, and the rows of its pairs, int64 [B]."""
        rank, num_ranks = self.loader.runtime.rank, self.loader.runtime.world_size
        size = min(self.batch_size, NO_GRADIENT_FACTOR * self.engine.engine.train_micro_batch_size_per_gpu())
        for part, reader in enumerate(self.loader.readers):
            pairs = torch.arange(len(reader.keys))
            # Under ZeRO 3 a forward pass gathers weights from all ranks, so each rank must make as many as the others.
            num_batches = math.ceil(len(pairs) / (num_ranks * size))
            for rows in torch.tensor_split(pairs[rank::num_ranks], num_batches):
                yield part, rows
