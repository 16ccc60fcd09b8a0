"""The metrics of a stage in TensorBoard, in metrics.jsonl and on the terminal."""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard.summary import hparams

from msp_ds.progress import SECONDS_BETWEEN_LINES, Ticker, clock
from msp_ds.terminal import console
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE, read_finished
from msp_ds.training.monitoring.event_file import Curves
from msp_ds.training.monitoring.metrics_file import MetricsFile, Report
from msp_ds.training.monitoring.terminal_view import TerminalView

log = logging.getLogger(__name__)


class MetricLogger:
    """Logs one stage on rank 0; on the other ranks every call does nothing."""

    def __init__(self, folder: Path, *, name: str, num_steps: int, start: int, speaks: bool) -> None:
        """Open the files of a stage's folder; steps after `start` that an interrupted run has written are replaced.

        In the folder of a run the scalars are also written to the run's own curves, one stage after the other.
        speaks: whether this is rank 0.
        """
        self.name = name
        self.num_steps = num_steps
        self._writers: dict[Curves, int] = {}
        """TensorBoard writer -> steps that its curves have before the stage's first."""
        self._own: Curves | None = None
        """The writer in the stage's folder."""
        self._metrics: MetricsFile | None = None
        self._view: TerminalView | None = None
        self.speaks = speaks
        self._began, self.start = time.monotonic(), start
        self.doing = "the first step"
        """What takes long between two reports, for progress lines."""
        self._step, self._last_line = start, 0.0
        self._ticker = Ticker(self._log_progress, seconds=SECONDS_BETWEEN_LINES)
        if speaks:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        shown = {folder: 0}
        if (folder.parent / RUN_FILE).is_file():
            shown[folder.parent] = steps_before(folder)
        for shown_in, before in shown.items():
            writer = Curves(shown_in, purge_step=before + self.start + 1)
            self._writers[writer] = before
            self._own = self._own or writer
        self._metrics = MetricsFile(folder, start=self.start, facts={"stage": self.name, "num_steps": self.num_steps})
        terminal = console()
        if terminal.is_terminal:
            self._view = TerminalView(terminal, name=self.name, num_steps=self.num_steps, start=self.start)
        else:
            self._ticker.start()

    def scalars(
        self, step: int, values: Mapping[str, float], *, epoch: float = 0.0, report: Report = "training"
    ) -> None:
        """Write scalars at an optimiser step; a validation's have `validation/` before their names in TensorBoard.

        epoch: epochs trained so far.
        """
        if self._metrics is not None:
            self._metrics.add(step, values, report=report, epoch=epoch)
        prefix = "" if report == "training" else f"{report}/"
        for writer, before in self._writers.items():
            for name, value in values.items():
                writer.add_scalar(prefix + name, value, before + step)
        if self._view is not None and report == "validation":
            self._view.validated(step, values)

    def text(self, name: str, markdown: str, *, step: int) -> None:
        """Write a Markdown text beside the stage's curves."""
        if self._own is not None:
            self._own.add_text(name, markdown, step)

    def introduce(self, texts: Mapping[str, str]) -> None:
        """Write texts, name -> Markdown, beside the run's curves if this is the first step of the run."""
        if self._writers and not self.start:
            *_, (writer, before) = self._writers.items()
            for name, markdown in texts.items() if not before else ():
                writer.add_text(name, markdown, 0)

    def picture(self, name: str, pixels: np.ndarray, *, step: int) -> None:
        """Write a picture beside the stage's curves. pixels: uint8 [height, width, 3]."""
        if self._own is not None:
            self._own.add_image(name, pixels, step, dataformats="HWC")

    def hyperparameters(self, settings: Mapping[str, bool | str | float], results: Iterable[str]) -> None:
        """Add the stage to TensorBoard's table of runs.

        results: names of validation metrics; TensorBoard takes their last values from the stage's curves.
        """
        if self._own is not None:
            shown = dict.fromkeys((f"validation/{name}" for name in results), 0.0)
            for summary in hparams(dict(settings), shown):  # type: ignore[no-untyped-call]
                self._own._get_file_writer().add_summary(summary)

    def advance(self, step: int, values: Mapping[str, float]) -> None:
        """Update the live view, or log a line now and then where there is no terminal."""
        if not self.speaks:
            return
        now = time.monotonic()
        self._step, self.doing = step, ""
        if self._view is not None:
            self._view.advance(step, values, left=self._left())
        elif now - self._last_line > SECONDS_BETWEEN_LINES or step == self.num_steps:
            self._last_line = now
            note = f"loss {values['loss/total']:.3f}  {values['speed/pairs_per_s']:.0f} pairs/s"
            log.info("%s: step %d of %d, %s, %s left", self.name, step, self.num_steps, note, self._left())
            self._ticker.wrote()

    def _left(self) -> str:
        """Estimated time until the end of the stage, from the mean time per step."""
        seconds = (self.num_steps - self._step) * (time.monotonic() - self._began) / max(self._step - self.start, 1)
        return clock(seconds)

    def _log_progress(self) -> None:
        left = f", {self._left()} left" if self._step > self.start else ""
        log.info("%s: after step %d of %d, at %s%s", self.name, self._step, self.num_steps, self.doing or "work", left)

    def flush(self) -> None:
        """Write out all scalars: a killed run must not lack those before its checkpoint when it is resumed."""
        for writer in self._writers:
            writer.flush()
        if self._metrics is not None:
            self._metrics.flush()

    def close(self) -> None:
        """Close the live view and the files."""
        self._ticker.stop()
        if self._view is not None:
            self._view.close()
        for writer in self._writers:
            writer.close()
        if self._metrics is not None:
            self._metrics.close()


def steps_before(folder: Path) -> int:
    """Total optimiser steps of the finished stages before the one in `folder`."""
    earlier = [path for path in folder.parent.glob(f"[0-9]*-*/{STAGE_FILE}") if _number(path.parent) < _number(folder)]
    return sum(read_finished(path.parent).steps for path in earlier)


def _number(stage: Path) -> int:
    """2 of `2-phrase`; 0 for a folder of another name."""
    first = stage.name.partition("-")[0]
    return int(first) if first.isdecimal() else 0
