"""Lines of progress without a terminal."""

from __future__ import annotations

import io
import threading
import time

import pytest

from msp_ds.progress import Bars, Ticker, Work
from msp_ds.terminal import Terminal


class Lines(io.StringIO):
    """A log that tells when the first line has come."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def write(self, text: str) -> int:
        """Take note of a text."""
        self.came.set()
        return super().write(text)


@pytest.mark.parametrize(
    ("total", "done", "line"),
    [
        (4800, 1200, "ranking: 1,200 of 4,800 (25 %), 0:30 passed, 1:30 left"),
        (4800, 0, "ranking: 0 of 4,800 (0 %), 0:30 passed, time left not known yet"),
        (4800, 4800, "ranking: all 4,800 done, still working, 0:30 passed in all"),
        (None, 7, "ranking: 0:30 passed"),
    ],
)
def test_a_line_says_how_much_is_done_and_the_time_left(total: int | None, done: int, line: str) -> None:
    now = [100.0]
    work = Work(Terminal(file=io.StringIO()), get_time=lambda: now[0])
    progress = Bars(work)
    progress.start("ranking", total)
    now[0] += 30
    progress.advance(done)
    assert work.line() == line


def test_work_that_reports_nothing_says_that_it_goes_on() -> None:
    lines = Lines()
    work = Work(Terminal(file=lines), seconds=0.01)
    Bars(work).start("a[/b]\x1b", None)
    with work:
        assert lines.came.wait(60)
    assert lines.getvalue()[8:].startswith(" a[/b]\\x1b: 0:00 passed")


def test_short_work_says_nothing() -> None:
    lines = Lines()
    with Work(Terminal(file=lines), seconds=60) as work:
        Bars(work).start("ranking", 1)
        Bars(work).advance()
    assert lines.getvalue() == ""


def test_work_that_has_not_come_to_its_first_bar_is_preparing() -> None:
    now = [100.0]
    work = Work(Terminal(file=io.StringIO()), get_time=lambda: now[0])
    now[0] += 125
    assert work.line() == "preparing: 2:05 passed"


def test_no_line_is_written_after_the_end() -> None:
    begun, lines = threading.Event(), list[str]()

    def write() -> None:
        begun.set()
        time.sleep(0.1)
        lines.append("a line")

    ticker = Ticker(write, seconds=0.0)
    ticker.start()
    assert begun.wait(60)
    ticker.stop()
    at_the_end = list(lines)
    time.sleep(0.2)
    assert lines == at_the_end != []
