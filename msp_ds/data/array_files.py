"""Numpy archives (.npz) without pickles, which could run code when they are loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msp_ds.errors import InputError


def load_arrays(path: Path, names: Sequence[str], *, what: str, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named arrays of an archive, and those of `optional` that it has; the others stay on the disk.

    Raises: InputError, saying that the file should be `what`, when it is missing, damaged, pickled, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            arrays = {name: archive[name] for name in (*names, *optional) if name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it should be {what}") from None
    except ValueError as error:
        raise InputError(f"{path} holds pickles or is damaged ({error}); it should be {what}") from None
    except (OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no readable archive ({error}); it should be {what}") from None
    if missing:
        raise InputError(f"{path} lacks the array {missing[0]}; it should be {what}")
    return arrays
