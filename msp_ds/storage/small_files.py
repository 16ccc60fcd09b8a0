"""Files from users: opened only if they are regular files of the right kind; small ones read whole and parsed."""

import errno
import json
import math
import os
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO

from msp_ds.storage.file_kinds import Archive, refuse_other_kind

MOST_BYTES = 64 << 20  # largest small file; every configuration, recipe, list of labels and vocabulary is far below
_LONGEST_NAME = 255  # bytes of a file name


def open_regular(
    path: Path, *, what: str = "", unpacks: Archive = "", even_empty: bool = False, buffering: int = -1
) -> BinaryIO:
    """Open a regular file to read its bytes; a FIFO would block for ever, and a device may never end.

    what, unpacks, even_empty: as for `refuse_other_kind`; without `what` the content is not looked at.

    Raises: InputError for a file that is plainly something else than `what`; OSError, whose strerror gives the reason,
    for a missing file and for anything but a regular file.
    """
    if what:
        refuse_other_kind(path, what=what, unpacks=unpacks, even_empty=even_empty)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.open("rb", buffering)


def read_small_bytes(path: Path, *, what: str = "", most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises: as `open_regular`; OSError also for a file of more than `most` bytes.
    """
    with open_regular(path, what=what) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and such files have at most {most:,}", str(path))
        return file.read()


def read_small_text(path: Path, *, what: str = "") -> str:
    """Return the text of a regular UTF-8 file, without a byte order mark.

    Raises: as `read_small_bytes`, and UnicodeDecodeError.
    """
    return read_small_bytes(path, what=what).decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """Return the value in a JSON text that follows the standard.

    Raises: ValueError for a syntax error, a key that comes twice, NaN, Infinity, a number beyond float64, and values
    that are nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table in a TOML text. Raises: ValueError for a syntax error and for values nested too deeply."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs. Raises: ValueError for a key that comes twice, which would lose a value."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} comes twice")
    return table


def is_plain_name(name: str) -> bool:
    """Return whether a name from a file stays within its folder and is short enough for file systems."""
    is_short = len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
    return Path(name).name == name and name not in ("", "..") and "\0" not in name and is_short


def reason(error: Exception) -> str:
    """Return in a few words what went wrong with a file."""
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
