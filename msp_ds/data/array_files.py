"""Numpy archives (.npz) without pickles, which could run code when they are loaded."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format
from numpy.lib.npyio import NpzFile

from msp_ds.data.checksum import crc32
from msp_ds.errors import InputError
from msp_ds.file_kinds import refuse_other_kind

_NAME_LENGTHS = 26
"""Where a member's local header tells how long its name and its extra field are, both before the content."""
_LOCAL_HEADER = 30


def list_arrays(path: Path, *, what: str) -> tuple[str, ...]:
    """The names of the arrays in an archive.

    Raises: InputError, saying that the file should be `what`, when it is missing or no archive.
    """
    with _open(path, what=what) as archive:
        return tuple(archive.files)


def load_arrays(path: Path, names: Sequence[str], *, what: str, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named arrays of an archive, and those of `optional` that it has; the others stay on the disk.

    Raises: InputError, saying that the file should be `what`, when it is missing, damaged, pickled, or lacks an array.
    """
    with _open(path, what=what) as archive:
        missing = [name for name in names if name not in archive.files]
        arrays = {name: _load(archive, name, path) for name in (*names, *optional) if name in archive.files}
        # numpy hands out the bytes of a member that does not start as an array does.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is no array")
    if missing:
        raise InputError(f"{path} lacks the array {missing[0]}; it should be {what}")
    return arrays


def _load(archive: NpzFile, name: str, path: Path) -> np.ndarray:
    """An array; a plain one in one read, where numpy would copy it in pieces of 256 KB."""
    member = f"{name}.npy"
    plain = None
    if archive.zip is not None and member in archive.zip.namelist():
        plain = _load_plain(archive.zip, archive.zip.getinfo(member), path)
    array: np.ndarray = archive[name] if plain is None else plain
    return array


def _load_plain(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray | None:
    """An array stored as it is in memory, its crc32 checked; None for any other, which numpy loads or refuses."""
    with archive.open(info) as member:
        if info.compress_type != zipfile.ZIP_STORED or npy_format.read_magic(member) != (1, 0):
            return None
        shape, is_fortran, dtype = npy_format.read_array_header_1_0(member)
        start = member.tell()
    if is_fortran or dtype.hasobject or start + math.prod(shape) * dtype.itemsize != info.file_size:
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
    """An archive; what goes wrong while it is open is said in one line."""
    refuse_other_kind(path, what=what, unpacks="zip", even_empty=True)
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, NpzFile):
                raise TypeError("it holds one array")
            yield archive
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it should be {what}") from None
    except ValueError as error:
        raise InputError(f"{path} holds pickles or is damaged ({error}); it should be {what}") from None
    except (OSError, EOFError, AttributeError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # RuntimeError: a flipped bit may ask for a password, or for a way to compress that nobody knows.
        raise InputError(f"{path} is no readable archive ({error}); it should be {what}") from None
