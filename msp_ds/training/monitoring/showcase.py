"""The same few held-out pairs after every validation, in words and in pictures."""

from __future__ import annotations

from functools import cached_property

from msp_ds.curriculum import Granularity
from msp_ds.data.loading.reader import Reader
from msp_ds.training.monitoring.metric_logger import MetricLogger
from msp_ds.training.monitoring.metric_texts import sample_text
from msp_ds.training.monitoring.sample_picture import draw_sample
from msp_ds.training.monitoring.samples import Names, spread_pairs, take_samples
from msp_ds.training.pretraining_model import PretrainingModel

NUM_PAIRS = 6
NUM_PICTURES = 3


class Showcase:
    """Asks the model about some held-out pairs of a stage and puts what it says on the board."""

    def __init__(
        self, model: PretrainingModel, reader: Reader, *, part: Granularity, epoch: int, metric_logger: MetricLogger
    ) -> None:
        """reader: of the held-out pairs of `part`; epoch: whose chance hides words and regions, always the same."""
        self._model = model
        self._reader = reader
        self._part = part
        self._epoch = epoch
        self._board = metric_logger
        self._pairs = spread_pairs(reader, NUM_PAIRS)

    @cached_property
    def _names(self) -> Names:
        return Names.of(self._reader)

    def show(self, step: int) -> None:
        """Shows what the model, in evaluation mode, says after an optimiser step; every rank must call it."""
        samples = take_samples(
            self._model,
            self._reader,
            self._pairs,
            tasks=self._part.tasks,
            epoch=self._epoch,
            names=self._names,
        )
        if not self._board.speaks or not samples:
            return
        self._board.text("samples", sample_text(samples), step=step)
        for number, sample in enumerate(samples[:NUM_PICTURES], start=1):
            self._board.picture(f"pairs/{number}", draw_sample(sample), step=step)
