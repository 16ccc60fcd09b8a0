"""Numpy archives (.npz) without pickles, which could run code when they are loaded."""

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.lib.npyio import NpzFile

from msp_ds.errors import InputError
from msp_ds.storage.checksums import crc32
from msp_ds.storage.small_files import open_regular, reason

_NAME_LENGTHS = 26
"""Offset, in a member's local header, of the lengths of its name and extra field, which precede the content."""
_LOCAL_HEADER = 30
_BOMB_BYTES, _BOMB_RATIO = 1 << 30, 100
"""A member that unpacks to more than so many bytes and so many times its size is refused."""

_UNREADABLE = (
    *(OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, MemoryError),
    RuntimeError,  # a flipped bit may require a password or an unknown compression
)
"""In addition to ValueError, the exceptions of reading a damaged or hostile archive."""


def list_arrays(path: Path, *, what: str) -> tuple[str, ...]:
    """Return the names of the arrays in an archive, which should be `what`.

    Raises: InputError when it is missing or not an archive.
    """
    with _open(path, what=what) as archive:
        return tuple(archive.files)


def load_arrays(path: Path, names: Sequence[str], *, what: str, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Load the named arrays of an archive, which should be `what`, and those of `optional` that it has.

    Raises: InputError when it is missing, damaged, pickled, or lacks an array.
    """
    with _open(path, what=what) as archive:
        missing = [name for name in names if name not in archive.files]
        arrays = {name: _load(archive, name, path) for name in (*names, *optional) if name in archive.files}
        # numpy returns the bytes of a member that does not start like an array.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is not an array")
    if missing:
        raise InputError(f"{path} lacks the array {missing[0]}; it should be {what}")
    return arrays


def _load(archive: NpzFile, name: str, path: Path) -> np.ndarray:
    """Load an array; a plain one in one read, where numpy copies it in pieces of 256 KB."""
    member = f"{name}.npy"
    plain = None
    if archive.zip is not None and member in archive.zip.namelist():
        info = archive.zip.getinfo(member)
        _check_size(info, path)
        with archive.zip.open(info) as file:
            header = _read_header(file, info.file_size)
        plain = _load_plain(info, header, path)
    array: np.ndarray = archive[name] if plain is None else plain
    return array


def _check_size(info: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a member that claims more bytes than the file has, or would fill the memory. Raises: ValueError."""
    stored = info.compress_type == zipfile.ZIP_STORED
    if info.compress_size > path.stat().st_size or (stored and info.file_size != info.compress_size):
        raise ValueError(f"{info.filename} claims more bytes than the file has")
    if info.file_size > max(_BOMB_BYTES, _BOMB_RATIO * info.compress_size):
        raise ValueError(f"{info.filename} unpacks {info.compress_size:,} bytes to {info.file_size:,}")


class _Header(NamedTuple):
    """The header of an array."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    start: int  # bytes before its numbers


def _read_header(file: IO[bytes], size: int) -> _Header:
    """Read the header of an .npy of `size` bytes, and check it before numpy allocates the memory that it claims.

    Raises: ValueError for arrays of objects, and for a shape that does not fit the bytes.
    """
    version = npy_format.read_magic(file)
    if version > (2, 0):
        raise ValueError(f"it is of version {version} of numpy's format")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    start = file.tell()
    if dtype.hasobject:
        raise ValueError("an array of objects holds pickles")
    if any(length < 0 for length in shape) or start + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"the header says {dtype} of shape {shape}, which is not what its {size:,} bytes hold")
    return _Header(shape, is_fortran, dtype, start)


def load_array(path: Path, *, what: str) -> np.ndarray:
    """Load the array in an .npy, which should be `what`. Raises: InputError when it is missing or damaged."""
    try:
        with open_regular(path) as file:
            _read_header(file, path.stat().st_size)
            file.seek(0)
            array: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable array ({reason(error)}); it should be {what}") from None
    return array


def _load_plain(info: zipfile.ZipInfo, found: _Header, path: Path) -> np.ndarray | None:
    """Load an array that is stored as it is in memory, and check its crc32; None for any other, which numpy loads."""
    shape, is_fortran, dtype, start = found
    if is_fortran or info.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb", buffering=0) as file:
        file.seek(info.header_offset + _NAME_LENGTHS)
        file.seek(info.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", file.read(4))))
        header = file.read(start)
        array = np.fromfile(file, dtype, count=math.prod(shape))
    if crc32(array.view(np.uint8).data, crc32(header)) != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    return array.reshape(shape)


@contextmanager
def _open(path: Path, *, what: str) -> Iterator[NpzFile]:
    """Open an archive; every error while it is open becomes an InputError of one line."""
    try:
        with open_regular(path, what=what, unpacks="zip", even_empty=True) as file:
            if not zipfile.is_zipfile(file):  # numpy would load one array, as large as its header claims
                raise zipfile.BadZipFile("it is not a zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                yield archive
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it should be {what}") from None
    except ValueError as error:
        raise InputError(f"{path} holds pickles or is damaged ({error}); it should be {what}") from None
    except _UNREADABLE as error:
        raise InputError(f"{path} is not a readable archive ({error}); it should be {what}") from None
