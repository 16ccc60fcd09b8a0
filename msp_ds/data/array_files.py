"""Numpy archives (.npz) without pickles, which could run code when they are loaded."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from msp_ds.errors import InputError


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
        arrays = {name: archive[name] for name in (*names, *optional) if name in archive.files}
        # numpy hands out the bytes of a member that does not start as an array does.
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is no array")
    if missing:
        raise InputError(f"{path} lacks the array {missing[0]}; it should be {what}")
    return arrays


@contextmanager
def _open(path: Path, *, what: str) -> Iterator[NpzFile]:
    """An archive; what goes wrong while it is open is said in one line."""
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
