"""Small files from users, JSON and TOML among them: read whole, in bounded memory, and without a way to hang."""

from __future__ import annotations

import errno
import json
import math
import stat
import tomllib
from pathlib import Path
from typing import Any

MOST_BYTES = 64 << 20
"""Of a small file; every configuration, recipe, list of labels and vocabulary is far below."""
_LONGEST_NAME = 255
"""Bytes."""


def require_regular(path: Path) -> None:
    """Refuse a FIFO, which would wait for ever, and a device, which may never end.

    Raises: OSError, whose strerror gives the reason, for what is missing or no regular file.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_small_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises: OSError, whose strerror gives the reason; a file of more than `most` bytes is one.
    """
    require_regular(path)
    if (size := path.stat().st_size) > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and such files have at most {most:,}", str(path))
    return path.read_bytes()


def read_small_text(path: Path) -> str:
    """The text of a regular UTF-8 file, without a byte order mark.

    Raises: OSError as `read_small_bytes`, UnicodeDecodeError.
    """
    return read_small_bytes(path).decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """The value in a JSON text, as the standard has it.

    Raises: ValueError for a syntax error, a key that comes twice, NaN, Infinity, a number beyond float64, and values
    that are nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The table in a TOML text. Raises: ValueError for a syntax error and for values that are nested too deeply."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of its pairs. Raises: ValueError for a key that comes twice: one of its values would be lost."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} comes twice")
    return table


def is_plain_name(name: str) -> bool:
    """Whether a name from a file stays within the folder that it is looked up in, and file systems can hold it."""
    is_short = len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
    return Path(name).name == name and name not in ("", "..") and "\0" not in name and is_short


def reason(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start})"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of float64")
    return value
