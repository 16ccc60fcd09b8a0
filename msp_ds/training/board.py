"""What a run shows while it trains: TensorBoard scalars, a progress bar or plain lines, and a file of metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from msp_ds.terminal import progress_bar

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal to draw a bar on."""


class Board:
    """The window on one stage, on rank 0; on the others every call does nothing."""

    def __init__(self, folder: Path, *, name: str, num_steps: int, start: int, speaks: bool) -> None:
        """Opens TensorBoard's file so that steps after `start`, of an interrupted run, are replaced."""
        self.name = name
        self.num_steps = num_steps
        self._writer = SummaryWriter(str(folder), purge_step=start + 1, flush_secs=30) if speaks else None
        self._progress = progress_bar()
        self._speaks = speaks
        self._began, self._start = time.monotonic(), start
        self._last_line = 0.0
        if speaks:
            self._progress.start()
        self._bar = self._progress.add_task(name, total=num_steps, completed=start, note="")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars at an optimiser step; TensorBoard groups them by what stands before the slash."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def advance(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the bar to `step`, or writes a line where there is no terminal."""
        if not self._speaks:
            return
        note = f"loss {values['loss/total']:.3f}  {values['speed/pairs_per_s']:.0f} pairs/s"
        self._progress.update(self._bar, completed=step, note=f"step {step} of {self.num_steps}  {note}")
        now = time.monotonic()
        if self._progress.disable and (now - self._last_line > SECONDS_BETWEEN_LINES or step == self.num_steps):
            self._last_line = now
            left = (self.num_steps - step) * (now - self._began) / max(step - self._start, 1)
            minutes, seconds = divmod(round(left), 60)
            log.info("%s: step %d of %d, %s, %d:%02d left", self.name, step, self.num_steps, note, minutes, seconds)

    def flush(self) -> None:
        """Writes out all scalars: a run that is killed and resumed must not lack those before its checkpoint."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Ends the bar and flushes TensorBoard's file."""
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()
