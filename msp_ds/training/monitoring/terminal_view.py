"""The live view of a stage on a terminal: a bar with the time left, and the last reports below it."""

import math
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn

from msp_ds.progress import note_column
from msp_ds.terminal import Table, Terminal, styled

_BAR_WIDTH = 28
_REFRESHES = 4  # per second
_SPEED = {
    "speed/pairs_per_s": "{:.0f} pairs/s",
    "speed/wait_ratio": "waits for data {:.0%}",
    "speed/mfu": "{:.0%} of the peak",
    "memory/reserved_gib": "{:.1f} GiB",
    "memory/resident_gib": "{:.1f} GiB",
    "rate/lr": "rate {:.2g}",
}


class TerminalView:
    """Shows one stage and updates in place until it is closed."""

    def __init__(self, console: Terminal, *, name: str, num_steps: int, start: int) -> None:
        self._name, self._num_steps = name, num_steps
        self._trained: dict[str, float] = {}
        self._held_out: dict[str, float] = {}
        self._held_out_step = 0
        self._bar = Progress(
            note_column("{task.description}", "bold"),
            BarColumn(bar_width=_BAR_WIDTH),
            TaskProgressColumn(),
            note_column("{task.fields[note]}"),
            console=console,
        )
        self._task = self._bar.add_task(name, total=num_steps, completed=start, note=f"step {start} of {num_steps}")
        self._live = Live(console=console, get_renderable=self.drawn, refresh_per_second=_REFRESHES)
        self._live.start()

    def advance(self, step: int, values: Mapping[str, float], *, left: str) -> None:
        """Show a report at an optimiser step. left: the time until the stage ends, as h:mm:ss."""
        self._trained = dict(values)
        self._bar.update(self._task, completed=step, note=f"step {step} of {self._num_steps}  {left} left")

    def validated(self, step: int, values: Mapping[str, float]) -> None:
        """Show a validation beside the reports that follow it."""
        self._held_out, self._held_out_step = dict(values), step

    def drawn(self) -> RenderableType:
        """The current content."""
        table = Table.grid(padding=(0, 2))
        for kind in ("loss", "accuracy", "f1"):
            if numbers := _numbers(self._trained, kind):
                table.add_row(styled((f"  {kind}", "dim")), styled(*numbers))
        speed = "  ".join(words.format(self._trained[key]) for key, words in _SPEED.items() if key in self._trained)
        if speed:
            table.add_row(styled(("  speed", "dim")), speed)
        if self._held_out:
            numbers = _numbers(self._held_out, "loss", "accuracy", "f1")
            table.add_row(styled((f"  held out, step {self._held_out_step}", "dim")), styled(*numbers))
        return Group(self._bar, table)

    def close(self) -> None:
        """Stop updating; the last view stays on the terminal."""
        self._live.stop()


def _numbers(values: Mapping[str, float], *kinds: str) -> list[str | tuple[str, str]]:
    """The finite scalars of some kinds, as `total 3.214  mlm 2.105`."""
    parts: list[str | tuple[str, str]] = []
    for kind in kinds:
        for name, value in values.items():
            if name.startswith(f"{kind}/") and math.isfinite(value):
                what = name.removeprefix(f"{kind}/") + ("" if len(kinds) == 1 or kind == "loss" else f" {kind}")
                parts += [(f"{what} ", "dim"), f"{value:.3f}  "]
    return parts
