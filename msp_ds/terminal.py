"""What a person at the terminal sees: progress with the time left, log lines, and an error as one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from msp_ds.errors import InputError


def console() -> Console:
    """The terminal for everything but results; results go to standard output."""
    return Console(stderr=True)


def speak(*, quiet: bool = False) -> None:
    """Sends log lines to the terminal: all of ours from INFO on, or only warnings when `quiet`."""
    terminal = console()
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    if terminal.is_terminal:  # a log line must not tear the bar below it
        handler = RichHandler(console=terminal, show_path=False, show_level=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter("%(message)s"))  # else basicConfig puts level and module before it
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("msp_ds").setLevel(logging.WARNING if quiet else logging.INFO)


def progress_bar() -> Progress:
    """A bar with share, time passed, time left and a note; nothing is drawn where the output is no terminal."""
    terminal = console()
    return Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=terminal,
        disable=not terminal.is_terminal,
    )


class Bars:
    """Progress for work that reports itself by start(label, total) and advance(n), one bar after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None) -> None:
        """A new bar of `total` units, or of unknown length."""
        self._task = self._progress.add_task(label, total=total, note="")

    def advance(self, n: int = 1) -> None:
        """Moves the current bar."""
        if self._task is not None:
            self._progress.advance(self._task, n)


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars that are drawn as long as the block runs."""
    with progress_bar() as progress:
        yield Bars(progress)


@contextmanager
def one_line_errors(*, debug: bool, quiet: bool = False) -> Iterator[None]:
    """Turns what a user can cause into one line, none when `quiet`, and exit code 2; with `debug` into a traceback."""
    try:
        yield
    except InputError as error:
        if debug:
            raise
        Console(stderr=True, soft_wrap=True, quiet=quiet).print(
            f"[bold red]error:[/] {_plain(str(error))}", highlight=False
        )
        raise SystemExit(2) from None


def run_command(app: Callable[[], object]) -> None:
    """Runs a command line that ends with SystemExit, and ends the process with its code.

    One of several ranks skips the interpreter's tear-down: a thread of gloo may let go of a Python tensor only then,
    and a rank that has done all its work would end as aborted (exit code 134).
    """
    try:
        app()
    except SystemExit as end:
        ranks = sys.modules.get("torch.distributed")  # importing it takes seconds, which a mere --help would wait for
        if ranks is None or not ranks.is_available() or not ranks.is_initialized() or ranks.get_world_size() == 1:
            raise
        if end.code is not None and not isinstance(end.code, int):
            raise
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


@contextmanager
def resumable() -> Iterator[None]:
    """Ends work that can be taken up again in one line and exit code 130, as shells count it, on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True).print("interrupted; the same command goes on from here", highlight=False)
        raise SystemExit(130) from None


def _plain(text: str) -> str:
    """One line without rich's markup."""
    return " ".join(text.split()).replace("[", "\\[")
