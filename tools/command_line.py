"""The command line of the tools: their parser, sizes and tables of numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from msp_ds.terminal import Table


def tool_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows a module's docstring with its line breaks."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def at_least(least: int) -> Callable[[str], int]:
    """Return the `type` of an argument of argparse: a whole number from `least` on; others give a one-line error."""

    def size(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return size


def number_table(title: str, headers: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a table whose first column is aligned left and whose other columns are aligned right."""
    table = Table(title=title)
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table
