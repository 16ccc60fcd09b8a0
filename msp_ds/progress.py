"""Progress of long work: bars with the time left on a terminal, a line every ten seconds elsewhere."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as rich_progress

from msp_ds.terminal import Terminal, console, printable

SECONDS_BETWEEN_LINES = 10.0  # seconds without a terminal; shorter work writes no line


class Ticker:
    """Calls `write` in a thread of its own whenever no line was written for `seconds`."""

    def __init__(self, write: Callable[[], None], *, seconds: float) -> None:
        self._write, self._seconds = write, seconds
        self._ended, self._written_at = threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.wrote()
        self._thread.start()

    def wrote(self) -> None:
        """Count the seconds from now, since a line was just written elsewhere."""
        self._written_at = time.monotonic()

    def stop(self) -> None:
        """Stop the thread after its current line; a thread that was never started needs no stop."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(max(self._written_at + self._seconds - time.monotonic(), 0.0)):
            if time.monotonic() >= self._written_at + self._seconds:
                self.wrote()
                self._write()


def note_column(text: str, style: str = "none") -> rich_progress.TextColumn:
    """Return a column of a bar: `text` is a format of its task, never markup."""
    return rich_progress.TextColumn(text, style=style, markup=False)


class Work(rich_progress.Progress):
    """Bars on a terminal; elsewhere a line about the task that was started last, every ten `seconds`.

    A thread writes the lines, so that work that rarely reports its progress does not look dead.
    """

    def __init__(
        self,
        terminal: Terminal,
        *,
        seconds: float | None = None,
        get_time: Callable[[], float] = time.monotonic,
        is_drawn: bool = True,
    ) -> None:
        super().__init__(
            note_column("{task.description:<18}"),
            rich_progress.BarColumn(bar_width=28),
            rich_progress.TaskProgressColumn(),
            rich_progress.TimeElapsedColumn(),
            note_column("left"),
            rich_progress.TimeRemainingColumn(),
            note_column("{task.fields[note]}"),
            console=terminal,
            disable=not (is_drawn and terminal.is_terminal),
            get_time=get_time,
        )
        self._began = get_time()
        self._ticker = Ticker(self._write_line, seconds=SECONDS_BETWEEN_LINES if seconds is None else seconds)

    def start(self) -> None:
        """Draw the bars, or start to write lines without a terminal."""
        super().start()
        if not self.console.is_terminal:
            self._ticker.start()

    def stop(self) -> None:
        """End the bars or lines."""
        self._ticker.stop()
        super().stop()

    def _write_line(self) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {self.line()}", soft_wrap=True)

    def line(self) -> str:
        """Return `retrieval: 1,200 of 4,800 (25 %), 0:30 passed, 1:30 left` for the task that was started last."""
        if not self.tasks:
            return f"preparing: {clock(self.get_time() - self._began)} passed"
        task = self.tasks[-1]
        done, total, passed = task.completed, task.total, task.elapsed or 0.0
        parts = [f"{clock(passed)} passed"]
        if task.finished:
            parts = [f"all {done:,.0f} done, still working, {clock(self.get_time() - self._began)} passed in all"]
        elif total:
            parts.insert(0, f"{done:,.0f} of {total:,.0f} ({done / total:.0%})".replace("%", " %"))
            parts += [f"{clock(passed * (total - done) / done)} left"] if done else ["time left not known yet"]
        note = str(task.fields.get("note", ""))
        return printable(f"{task.description}: {', '.join([*parts, *([note] if note else [])])}")


def progress_bar(*, is_drawn: bool = True) -> Work:
    """Return a bar with percentage, times and a note; lines if standard error is not a terminal."""
    return Work(console(), is_drawn=is_drawn)


class Bars:
    """Progress of work that calls start(label, total) and advance(n), one bar after the other."""

    def __init__(self, progress: rich_progress.Progress) -> None:
        self._progress = progress
        self._task: rich_progress.TaskID | None = None

    def start(self, label: str, total: int | None) -> None:
        """Start a new bar of `total` units, or of unknown length."""
        self._task = self._progress.add_task(printable(label), total=total, note="")

    def advance(self, n: int = 1) -> None:
        """Move the current bar."""
        if self._task is not None:
            self._progress.advance(self._task, n)


@contextmanager
def bars(label: str | None = None, total: int | None = None, *, is_drawn: bool = True) -> Iterator[Bars]:
    """Show bars while the block runs, the first one called `label`; without `is_drawn` only lines."""
    with progress_bar(is_drawn=is_drawn) as progress:
        shown = Bars(progress)
        if label is not None:
            shown.start(label, total)
        yield shown


def clock(seconds: float) -> str:
    """Return 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
