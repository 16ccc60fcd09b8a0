"""Output to the terminal: texts and tables that are safe to show, log lines, and errors as one line.

All output of this project goes through this file. Names, captions and labels come from other people's files, so no
text is markup, and control and invisible characters are shown as escapes: \\x1b.
"""

import codecs
import copy
import dataclasses
import errno
import io
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import table as rich_table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.logging import RichHandler
from rich.measure import Measurement
from rich.text import Text

from msp_ds.errors import InputError

OUTPUT_FAILED = 2  # exit code of a command whose output cannot be written, as on a full disk
READER_GONE = 128 + 13
"""Exit code when the reader of the output has ended, as in `msp-ds ... | head -1`: that of SIGPIPE in shells."""
READABLE = 20  # minimal width of a column in cells while another column can be left out
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: controls, invisible format characters, lone surrogates, separators of lines and paragraphs."""
_SCRIPTS_THAT_JOIN = "[\u0600-\u1fff\u2070-\U0010ffff]"  # Arabic letters and all later ones, and emoji
_JOINING = re.compile(f"(?<={_SCRIPTS_THAT_JOIN})[\u200c\u200d](?={_SCRIPTS_THAT_JOIN})")
"""Zero-width characters that are part of a word, as in Persian and Hindi, or of an emoji, as a family."""
_REPLACED = "msp_ds.replaced"  # name of the codec error handler of both outputs
_IN_ASCII = {
    **{chr(code): "+" for code in range(0x2500, 0x2580)},
    **dict.fromkeys("─━┄┅┈┉╌╍═", "-"),
    **dict.fromkeys("│┃┆┇┊┋╎╏║", "|"),
    **dict.fromkeys("“”„", '"'),
}
"""Replacements of frames and quotation marks for encodings that lack them."""
_VERY_WIDE = 10_000


def printable(text: str, *, keep: str = "") -> str:
    """Return the text with control, bidirectional and zero-width characters as escapes.

    Characters in `keep` stay, and so do joiners within the letters of a script or the parts of an emoji.
    """
    if text.isprintable():
        return text
    joining = {found.start() for found in _JOINING.finditer(text)}
    escaped = (
        unicodedata.category(one) in _HIDDEN and one not in keep and place not in joining
        for place, one in enumerate(text)
    )
    return "".join(ascii(one)[1:-1] if hidden else one for one, hidden in zip(text, escaped, strict=True))


def styled(*parts: str | tuple[str, str]) -> Text:
    """Join parts, plain or with a style such as ("error:", "bold red"), to one text."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text, keep="\n"), style) for text, style in pairs))


class Terminal(Console):
    """A console on standard output or `stderr` that prints no markup and escapes control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as rich does, but do not wrap plain text, so that a path can be copied."""
        if all(isinstance(one, str) for one in objects):
            how.setdefault("soft_wrap", True)
        super().print(*objects, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """Turn a string into a text that is safe to show; rich calls it for each string and table cell."""
        return super().render_str(printable(text, keep="\n\t"), **how)


class Table(rich_table.Table):
    """A table that leaves out whole columns on a narrow terminal, and names them, so that the others stay readable.

    expendable: headers of the columns to leave out first, in this order; then columns go from the right. The first
    column always stays, and so do columns without a header.
    """

    def __init__(self, *headers: str, expendable: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*headers, **{"title_justify": "left", "caption_justify": "left", **options})
        self.expendable = tuple(expendable)
        for column in self.columns:
            column.overflow = "fold"

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        """Add a column as rich does; words longer than the column continue on the next line."""
        super().add_column(header, *args, **{"overflow": "fold", **options})

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; line breaks in its cells are shown as escapes."""
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = copy.copy(self)
        shown.width = None if self.width is None else min(self.width, options.max_width)
        max_width = shown.width or options.max_width
        sizes = [_sizes(column, console, options.update_width(_VERY_WIDE)) for column in self.columns]
        kept, left_out = self._fitting([least for least, _ in sizes], max_width)
        widths = _widths([sizes[place] for place in kept], max_width - _frame(len(kept)))
        shown.columns = [
            dataclasses.replace(self.columns[place], _index=number, width=width)
            for number, (place, width) in enumerate(zip(kept, widths, strict=True))
        ]
        if left_out:
            note = f"left out: {', '.join(dict.fromkeys(left_out))}; a wider terminal (COLUMNS=120) shows all"
            shown.caption = note if self.caption is None else f"{self.caption}\n{note}"
        yield from rich_table.Table.__rich_console__(shown, console, options)

    def _fitting(self, least: Sequence[int], max_width: int) -> tuple[list[int], list[str]]:
        """Return the columns that fit in `max_width` cells, and the headers of the others in their order."""
        headers = [str(column.header) for column in self.columns]
        named = [place for one in self.expendable for place, header in enumerate(headers) if place and header == one]
        order = named + [place for place in range(len(headers) - 1, 0, -1) if headers[place] and place not in named]
        kept, left_out = list(range(len(headers))), list[str]()
        while order and _frame(len(kept)) + sum(least[place] for place in kept) > max_width:
            kept.remove(order[0])
            left_out.append(headers[order.pop(0)])
        return kept, left_out


def _frame(num_columns: int) -> int:
    """Cells of the borders of a table, with a space on both sides of each column."""
    return 1 + 3 * num_columns


def _sizes(column: rich_table.Column, console: Console, options: ConsoleOptions) -> tuple[int, int]:
    """Cells of the longest word of a column, READABLE at most, and of its longest line."""
    found = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
    longest = min(max(one.maximum for one in found), column.max_width or _VERY_WIDE)
    return min(max(one.minimum for one in found), longest, READABLE), longest


def _widths(sizes: Sequence[tuple[int, int]], max_width: int) -> list[int | None]:
    """Divide `max_width` cells among columns of least and longest widths.

    All widths are None, for rich to choose, where the longest fit and where not even the least do.
    """
    spare = max_width - sum(least for least, _ in sizes)
    widths: list[int | None] = [None] * len(sizes)
    if spare < 0 or sum(longest for _, longest in sizes) <= max_width:
        return widths
    by_wish = sorted(range(len(sizes)), key=lambda place: sizes[place][1] - sizes[place][0])
    for done, place in enumerate(by_wish):
        least, longest = sizes[place]
        more = min(longest - least, spare // (len(sizes) - done))
        widths[place], spare = least + more, spare - more
    return widths


def console() -> Terminal:
    """Return the terminal for everything but results, which go to standard output."""
    return Terminal(stderr=True)


class _LogLines(logging.Formatter):
    """Formats log records as text that is safe to show; a record of this package is one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record), keep="" if record.name.startswith("msp_ds") else "\n\t")

    def formatException(self, ei: Any) -> str:
        return printable(super().formatException(ei), keep="\n\t")


def speak(*, quiet: bool = False) -> None:
    """Send log lines to the terminal: those of this package from INFO on, or only warnings when `quiet`."""
    terminal = console()
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_LogLines("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    if terminal.is_terminal:  # keeps log lines above the bars
        handler = RichHandler(console=terminal, show_path=False, show_level=False, log_time_format="%H:%M:%S")
        handler.setFormatter(_LogLines("%(message)s"))  # without it basicConfig adds level and module
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("msp_ds").setLevel(logging.WARNING if quiet else logging.INFO)


@contextmanager
def one_line_errors(*, debug: bool, quiet: bool = False) -> Iterator[None]:
    """Turn errors that a user can cause into one line (none when `quiet`) and exit code 2; with `debug` re-raise them.

    These are InputError, and OSError with a file name, such as a missing permission.
    """
    try:
        yield
    except (InputError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            message = f"{error.filename}: {error.strerror}" if error.filename is not None else ""
        if debug or not message:
            raise
        line = " ".join(message.split())
        Terminal(stderr=True, soft_wrap=True, quiet=quiet).print(styled(("error:", "bold red"), f" {line}"))
        raise SystemExit(2) from None


class _Output(io.FileIO):
    """Standard output or standard error; a failed write ends the command with one line instead of a traceback."""

    def write(self, data: Any) -> int:
        """Write to the file; after a failure all later output is dropped."""
        try:
            return super().write(data) or 0
        except OSError as error:
            is_result = self.fileno() == 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if not is_result:  # a log that nobody reads must not end a training run
                return len(data)
            if error.errno == errno.EPIPE:
                raise SystemExit(READER_GONE) from None
            os.write(2, f"error: the output cannot be written: {error.strerror}\n".encode())
            raise SystemExit(OUTPUT_FAILED) from None


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks: frames by ASCII, others by a question mark for each cell."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(one, "?" * cell_len(one)) for one in lacking), error.end


def _guard_outputs() -> None:
    """Make standard output and standard error replace unencodable characters and handle failed writes."""
    codecs.register_error(_REPLACED, _replaced)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper and stream.fileno() in (1, 2):  # tests and notebooks have others
            stream.flush()
            guarded = io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
            wrapped = io.TextIOWrapper(
                guarded, encoding=stream.encoding, errors=_REPLACED, line_buffering=stream.line_buffering
            )
            setattr(sys, name, wrapped)


def run_command(app: Callable[[], object]) -> None:
    """Run a command line that ends with SystemExit, and end the process with its code.

    One of several ranks skips the interpreter's tear-down, in which a gloo thread may release a Python tensor and abort
    a rank that has finished its work (exit code 134).
    """
    _guard_outputs()
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except SystemExit as end:
        ranks = sys.modules.get("torch.distributed")  # not imported: that takes seconds
        if ranks is None or not ranks.is_available() or not ranks.is_initialized() or ranks.get_world_size() == 1:
            raise
        if end.code is not None and not isinstance(end.code, int):
            raise
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


def run_tool(main: Callable[[], object]) -> None:
    """Run a program of tools/, which has no --debug, with errors as one line."""

    def quietly() -> None:
        with one_line_errors(debug=False):
            main()

    run_command(quietly)


@contextmanager
def resumable() -> Iterator[None]:
    """End resumable work on Ctrl-C with one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        Terminal(stderr=True, soft_wrap=True).print("interrupted; the same command continues from here")
        raise SystemExit(130) from None
