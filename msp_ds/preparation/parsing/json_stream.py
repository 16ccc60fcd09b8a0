"""JSON files read item by item, so that a list of 700 MB takes no more memory than its longest item.

Three containers are read alike: a list, an object, whose lists are walked one after the other, and JSON lines.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from msp_ds.errors import InputError
from msp_ds.storage.small_files import open_regular, unique_keys

_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)
"""Takes NaN, as Python writes it: most often it stands in a field that nobody reads."""
_CHUNK = 1 << 20
_LONGEST_ITEM = 64 << 20
"""Characters; one image's entry is below 100,000 in all real files."""
_LONGEST_INFIX = 3
"""Characters after which a number has surely ended: `e-` and one more."""
_LONGEST_LINE = 1 << 20
"""Characters of the first line that are looked at."""
_WHITE = " \t\r\n"
_LINES_ENDINGS = (".jsonl", ".jsonline", ".jsonlines")


class Item(NamedTuple):
    """One item of a file."""

    where: str
    """File and place, for messages: `captions.json annotation 7`."""
    member: str
    """The key of the file's object that holds the item; empty in a list and in JSON lines."""
    value: Any


def iterate_items(path: Path, *, what: str) -> Iterator[Item]:
    """The items of a JSON file one by one: of its list, of the lists in its object, or its lines.

    Members of an object that are no lists are items of their own.

    Raises: InputError, saying that the file should be `what`, when it is missing, cut off or no JSON.
    """
    with readable(path, what=what) as file:
        yield from (_lines(file, path) if _has_lines(file, path) else _whole(file, path, what))


@contextmanager
def readable(path: Path, *, what: str) -> Iterator[TextIO]:
    """A text file, open as long as the block runs.

    Raises: InputError, saying that the file should be `what`, when it is missing or no text.
    """
    try:
        with io.TextIOWrapper(open_regular(path, what=what), encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it should be {what}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {what}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text; it should be {what}") from None


def require_mapping(item: Item, *keys: str, what: str) -> dict[str, Any]:
    """The item as an object that holds `keys`.

    Raises: InputError with the item's place.
    """
    if not isinstance(item.value, dict):
        raise InputError(f"{item.where}: is no object; it should be {what}")
    for key in keys:
        if key not in item.value:
            raise InputError(f"{item.where}: has no {key}; it should be {what}")
    return item.value


def _has_lines(file: TextIO, path: Path) -> bool:
    """Whether a file holds one JSON object a line: told by its ending, or by a second object on a line of its own."""
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


def _lines(file: TextIO, path: Path) -> Iterator[Item]:
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_ITEM), ""), start=1):
        if line.strip():
            where = f"{path} line {number}"
            try:
                value = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: is no readable JSON ({error}); it is cut off or damaged") from None
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
        raise InputError(f"{path} is no readable JSON{'' if start else ', it is empty'}; it should be {what}")
    if text.peek():
        raise text.fault("something follows its end")


def _member_items(text: _Text, key: Any) -> Iterator[Item]:
    """The value behind a key just read: each item of a list, anything else as it is."""
    if not isinstance(key, str) or text.peek() != ":":
        raise text.fault("a key is no text or has no value")
    text.take()
    if text.peek() == "[":
        yield from _list_items(text, member=key)
    else:
        yield Item(f"{text.path} {key}", key, text.value())


def _list_items(text: _Text, *, member: str) -> Iterator[Item]:
    name = member.removesuffix("s") or "entry"
    for place, value in enumerate(_comma_separated(text, "[", "]")):
        yield Item(f"{text.path} {name} {place}", member, value)


def _comma_separated(text: _Text, start: str, end: str) -> Iterator[Any]:
    """The values between two brackets; for an object its keys, the caller reads what follows each."""
    if text.take() != start:
        raise text.fault(f"{start} is missing")
    if text.peek() == end:
        text.take()
        return
    while True:
        yield text.value()
        separator = text.take()
        if separator == end:
            return
        if separator != ",":
            raise text.fault("a comma is missing" if separator else "it ends too early")


class _Text:
    """The text of a file, in memory only from the item at hand to the end of a chunk."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.path = path
        self._file = file
        self._text = ""
        self._place = 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in _WHITE:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def take(self) -> str:
        """The next character that is no white space, which is then behind us."""
        character = self.peek()
        self._place += len(character)
        return character

    def value(self) -> Any:
        """The next JSON value. Raises: InputError when there is none."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                # Most often the value goes on beyond the chunk.
                if len(self._text) - self._place > _LONGEST_ITEM or not self._more():
                    raise self.fault(getattr(error, "msg", str(error))) from None
                continue
            length = end - self._place
            # A number at the chunk's end, as the 7 of `7.` or `7e-`, may go on as well, which the decoder cannot know.
            if len(self._text) - end < _LONGEST_INFIX and isinstance(value, int | float) and self._more():
                continue
            self._place += length
            return value

    def fault(self, reason: str) -> InputError:
        """The error of a file that is not valid JSON."""
        return InputError(f"{self.path} is no readable JSON ({reason}); it is cut off or damaged")

    def _more(self) -> bool:
        """Reads on; whether there was more. What lies behind is forgotten."""
        chunk = self._file.read(_CHUNK)
        self._text, self._place = self._text[self._place :] + chunk, 0
        return bool(chunk)
