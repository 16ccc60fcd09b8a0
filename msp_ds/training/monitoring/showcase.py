"""Predictions on the same few held-out pairs after every validation, as texts and pictures."""

from __future__ import annotations

from functools import cached_property

from msp_ds.curriculum import Granularity
from msp_ds.data.loading.reader import Reader
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.metric_texts import sample_text
from msp_ds.training.monitoring.sample_picture import draw_sample
from msp_ds.training.monitoring.samples import Names, predict_samples, spread_pairs
from msp_ds.training.pretraining_model import PretrainingModel

NUM_PAIRS = 6
NUM_PICTURES = 3


class Showcase:
    """Logs the model's predictions on some held-out pairs of a stage."""

    def __init__(
        self, model: PretrainingModel, reader: Reader, *, part: Granularity, epoch: int, metric_logger: MetricLogger
    ) -> None:
        """reader: of the held-out pairs of `part`. epoch: whose random numbers mask words and regions."""
        self._model = model
        self._reader = reader
        self._part = part
        self._epoch = epoch
        self._metric_logger = metric_logger
        self._pairs = spread_pairs(reader, NUM_PAIRS)

    @cached_property
    def _names(self) -> Names:
        return Names.of(self._reader)

    def show(self, step: int) -> None:
        """Log predictions of the model, in evaluation mode, after an optimiser step; every rank must call it."""
        tasks, epoch, names = self._part.tasks, self._epoch, self._names
        samples = predict_samples(self._model, self._reader, self._pairs, tasks=tasks, epoch=epoch, names=names)
        if not self._metric_logger.speaks or not samples:
            return
        self._metric_logger.text("samples", sample_text(samples), step=step)
        for number, sample in enumerate(samples[:NUM_PICTURES], start=1):
            self._metric_logger.picture(f"pairs/{number}", draw_sample(sample), step=step)
