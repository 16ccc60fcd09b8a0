"""What a run shows while it trains: TensorBoard by stage and overall, metrics.jsonl, a live view or plain lines."""

from __future__ import annotations

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
    """The window on one stage, on rank 0; on the others every call does nothing."""

    def __init__(self, folder: Path, *, name: str, num_steps: int, start: int, speaks: bool) -> None:
        """Opens the files of a stage's folder so that steps after `start`, of an interrupted run, are replaced.

        In the folder of a run the scalars go into the run's own curves too, one stage after the other.
        """
        self.name = name
        self.num_steps = num_steps
        self._writers: dict[Curves, int] = {}
        """TensorBoard's files, with the steps that come before the stage's first."""
        self._own: Curves | None = None
        """The one in the stage's folder."""
        self._metrics: MetricsFile | None = None
        self._view: TerminalView | None = None
        self.speaks = speaks
        self._began, self.start = time.monotonic(), start
        self.doing = "the first step"
        """What lies between two reports, where it may take long."""
        self._step, self._last_line = start, 0.0
        self._ticker = Ticker(self._say_again, seconds=SECONDS_BETWEEN_LINES)
        if speaks:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        shown = {folder: 0}
        if (folder.parent / RUN_FILE).is_file():
            shown[folder.parent] = steps_before(folder)
        for place, before in shown.items():
            writer = Curves(place, purge_step=before + self.start + 1)
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
        """Writes scalars at an optimiser step; TensorBoard groups them by what stands before the slash.

        epoch: how many have been trained. Those of a validation are shown with `validation/` before their names.
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
        """Shows a text, as Markdown, beside the stage's curves in TensorBoard."""
        if self._own is not None:
            self._own.add_text(name, markdown, step)

    def introduce(self, texts: Mapping[str, str]) -> None:
        """Shows texts, name -> Markdown, beside the curves of the whole run, where this is its beginning."""
        if self._writers and not self.start:
            *_, (writer, before) = self._writers.items()
            for name, markdown in texts.items() if not before else ():
                writer.add_text(name, markdown, 0)

    def picture(self, name: str, pixels: np.ndarray, *, step: int) -> None:
        """Shows a picture beside the stage's curves in TensorBoard. pixels: uint8 [height, width, 3]."""
        if self._own is not None:
            self._own.add_image(name, pixels, step, dataformats="HWC")

    def hyperparameters(self, settings: Mapping[str, bool | str | float], results: Iterable[str]) -> None:
        """Adds the stage to TensorBoard's table of runs. results: names of metrics of validations, the table's columns.

        The table takes their last values from the stage's curves.
        """
        if self._own is not None:
            shown = dict.fromkeys((f"validation/{name}" for name in results), 0.0)
            for summary in hparams(dict(settings), shown):  # type: ignore[no-untyped-call]
                self._own._get_file_writer().add_summary(summary)

    def advance(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the live view to `step`, or writes a line where there is no terminal."""
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
            self._ticker.spoke()

    def _left(self) -> str:
        """The time until the stage ends, as the steps so far went."""
        seconds = (self.num_steps - self._step) * (time.monotonic() - self._began) / max(self._step - self.start, 1)
        return clock(seconds)

    def _say_again(self) -> None:
        left = f", {self._left()} left" if self._step > self.start else ""
        log.info("%s: after step %d of %d, at %s%s", self.name, self._step, self.num_steps, self.doing or "work", left)

    def flush(self) -> None:
        """Writes out all scalars: a run that is killed and resumed must not lack those before its checkpoint."""
        for writer in self._writers:
            writer.flush()
        if self._metrics is not None:
            self._metrics.flush()

    def close(self) -> None:
        """Gives the terminal back and closes the files."""
        self._ticker.stop()
        if self._view is not None:
            self._view.close()
        for writer in self._writers:
            writer.close()
        if self._metrics is not None:
            self._metrics.close()


def steps_before(folder: Path) -> int:
    """Optimiser steps of the stages of a run that were finished before the one in `folder`."""
    earlier = [path for path in folder.parent.glob(f"[0-9]*-*/{STAGE_FILE}") if _number(path.parent) < _number(folder)]
    return sum(read_finished(path.parent).steps for path in earlier)


def _number(stage: Path) -> int:
    """2 of `2-phrase`; 0 of a folder of another name."""
    first = stage.name.partition("-")[0]
    return int(first) if first.isdecimal() else 0
