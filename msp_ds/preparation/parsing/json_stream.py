"""Read JSON files item by item, so that a list of 700 MB needs no more memory than its longest item.

Three containers are supported: a list, an object, whose lists are read one after the other, and JSON lines; and, with
objects by the names in its header, a CSV. The items themselves are decoded by the standard library's C decoder. (A
streaming parser such as ijson would either have to be told the name of each list in advance or build every value in
Python: 1.6 to 4.6 times as slow with unique keys.)
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from msp_ds.errors import InputError
from msp_ds.storage.small_files import open_regular, unique_keys

_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)
"""Accepts NaN, as Python writes it: most often it is in a field that is not used."""
_CHUNK = 1 << 20
_LONGEST_ITEM = 64 << 20
"""Characters; one image's entry is below 100,000 in all real files."""
_LONGEST_EXPONENT_START = 3
"""Characters behind a number at the end of a chunk that may still belong to it: `e-` and a digit."""
_LONGEST_LINE = 1 << 20
"""Characters of the first line that decide whether a file holds JSON lines."""
_CSV_HEADER = re.compile(r'"?\w+"?(, *"?\w+"?)+')
_WHITE_SPACE = " \t\r\n"
_LINES_ENDINGS = (".jsonl", ".jsonline", ".jsonlines")


class Item(NamedTuple):
    """One item of a file."""

    where: str
    """File and position, for messages: `captions.json annotation 7`."""
    member: str
    """The key of the file's object that holds the item; empty in a list and in JSON lines."""
    value: Any


def iterate_items(path: Path, *, what: str) -> Iterator[Item]:
    """Yield the items of a JSON file: of its list, of the lists in its object, or its lines; or the lines of a CSV.

    Members of an object that are not lists are items themselves.

    Raises: InputError, which names `what` as expected, when the file is missing, cut off or not valid JSON.
    """
    with readable(path, what=what) as file:
        if has_csv_header(file):
            yield from _csv_lines(file, path)
        else:
            yield from _lines(file, path) if _has_lines(file, path) else _whole(file, path, what)


@contextmanager
def readable(path: Path, *, what: str) -> Iterator[TextIO]:
    """Open a text file for the block.

    Raises: InputError, which names `what` as expected, when the file is missing or not UTF-8 text.
    """
    try:
        with io.TextIOWrapper(open_regular(path, what=what), encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it should be {what}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {what}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; it should be {what}") from None


def require_mapping(item: Item, *keys: str, what: str) -> dict[str, Any]:
    """Return the item's value, an object that holds `keys`. Raises: InputError for anything else."""
    if not isinstance(item.value, dict):
        raise InputError(f"{item.where}: is not an object; it should be {what}")
    for key in keys:
        if key not in item.value:
            raise InputError(f"{item.where}: has no {key}; it should be {what}")
    return item.value


def _has_lines(file: TextIO, path: Path) -> bool:
    """Whether a file holds JSON lines, by its ending or by a second line that starts another object."""
    if path.suffix in _LINES_ENDINGS:
        return True
    first, second = file.readline(_LONGEST_LINE), file.readline(_LONGEST_LINE)
    file.seek(0)
    if not second.startswith("{"):
        return False
    try:
        return isinstance(_DECODER.decode(first), dict)
    except (ValueError, RecursionError):
        return False


def has_csv_header(file: TextIO) -> bool:
    """Return whether a file starts with a line of names between commas, as only a CSV does."""
    header = file.readline(_LONGEST_LINE)
    file.seek(0)
    return _CSV_HEADER.fullmatch(header.strip()) is not None


def _csv_lines(file: TextIO, path: Path) -> Iterator[Item]:
    lines = csv.DictReader(file, strict=True, skipinitialspace=True)
    try:
        for row in lines:
            where = f"{path} line {lines.line_num}"
            if None in row or None in row.values():
                fix = "put quotes around a text with commas" if None in row else "complete the line"
                raise InputError(f"{where}: has more or fewer columns than the header; {fix}")
            yield Item(where, "", row)
    except csv.Error as error:
        fix = "close quotes, and double those within a text"
        raise InputError(f"{path} line {lines.line_num + 1}: is not valid CSV ({error}); {fix}") from None


def _lines(file: TextIO, path: Path) -> Iterator[Item]:
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_ITEM), ""), start=1):
        if line.strip():
            where = f"{path} line {number}"
            try:
                value = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: is not valid JSON ({error}); it is cut off or damaged") from None
            yield Item(where, "", value)


def _whole(file: TextIO, path: Path, what: str) -> Iterator[Item]:
    text = _Text(file, path)
    start = text.peek()
    if start == "[":
        yield from _list_items(text, member="")
    elif start == "{":
        for key in _comma_separated(text, "{", "}"):
            yield from _member_items(text, key)
    else:
        raise InputError(f"{path} is not valid JSON{'' if start else ', it is empty'}; it should be {what}")
    if text.peek():
        raise text.error("text follows its end")


def _member_items(text: _Text, key: Any) -> Iterator[Item]:
    """Yield the value behind a key: each item of a list, or any other value as one item."""
    if not isinstance(key, str) or text.peek() != ":":
        raise text.error("a key is not a string or has no value")
    text.read_character()
    if text.peek() == "[":
        yield from _list_items(text, member=key)
    else:
        yield Item(f"{text.path} {key}", key, text.value())


def _list_items(text: _Text, *, member: str) -> Iterator[Item]:
    name = member.removesuffix("s") or "entry"
    for place, value in enumerate(_comma_separated(text, "[", "]")):
        yield Item(f"{text.path} {name} {place}", member, value)


def _comma_separated(text: _Text, start: str, end: str) -> Iterator[Any]:
    """Yield the values between two brackets; of an object its keys, and the caller reads the value of each."""
    if text.read_character() != start:
        raise text.error(f"{start} is missing")
    if text.peek() == end:
        text.read_character()
        return
    while True:
        yield text.value()
        separator = text.read_character()
        if separator == end:
            return
        if separator != ",":
            raise text.error("a comma is missing" if separator else "it ends too early")


class _Text:
    """The text of a file, in memory only from the current item to the end of a chunk."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.path = path
        self._file = file
        self._text = ""
        self._position = 0

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _WHITE_SPACE:
                self._position += 1
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                return ""

    def read_character(self) -> str:
        """Return the next character that is not white space and move behind it."""
        character = self.peek()
        self._position += len(character)
        return character

    def value(self) -> Any:
        """Read the next JSON value. Raises: InputError when there is none."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                # Most often the value continues in the next chunk.
                if len(self._text) - self._position > _LONGEST_ITEM or not self._more():
                    raise self.error(getattr(error, "msg", str(error))) from None
                continue
            length = end - self._position
            # A number at the end of the chunk, such as 7 in `7.` or `7e-`, may continue, which the decoder cannot know.
            if len(self._text) - end < _LONGEST_EXPONENT_START and isinstance(value, int | float) and self._more():
                continue
            self._position += length
            return value

    def error(self, reason: str) -> InputError:
        """Return the error of a file that is not valid JSON."""
        return InputError(f"{self.path} is not valid JSON ({reason}); it is cut off or damaged")

    def _more(self) -> bool:
        """Read another chunk and drop the text behind the position; whether there was more."""
        chunk = self._file.read(_CHUNK)
        self._text, self._position = self._text[self._position :] + chunk, 0
        return bool(chunk)
