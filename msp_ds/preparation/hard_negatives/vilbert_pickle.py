"""Read ViLBERT's hard_negative.pkl without running anything in it.

The pickle is a dict: `train_image_list` [N] image numbers, `train_hard_pool` [N, K] rows of that list as floats,
normally the image itself first. Of numpy only arrays of plain numbers are rebuilt, by stand-ins: numpy itself never
sees what the pickle says of types and shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msp_ds.data.format.image_ids import Corpus, canonical_image_id
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.hard_negative_list import HardNegativeList, checked_list, without_self
from msp_ds.storage.restricted_pickle import PICKLE_ERRORS, RefusedNameError, load_pickle
from msp_ds.storage.small_files import open_regular

POOL, IMAGES = "train_hard_pool", "train_image_list"
_WHAT = f"ViLBERT's hard_negative.pkl, a dict with {IMAGES} and {POOL}"
_NUMBERS = frozenset("biuf")
"""Kinds of plain numbers, in numpy's letters."""


def read_hard_negative_pickle(path: Path, *, corpus: Corpus = "coco") -> HardNegativeList:
    """Read the list from a pickle of protocol 0 to 5, by Python 2 or 3; drop the image itself from its own neighbours.

    Plain numbers are ids of `corpus`.

    Raises: InputError when the file is missing, damaged, of another layout, or needs anything but arrays, lists,
    dicts, numbers and texts; then nothing of it has run.
    """
    ids, pool = _load(path)
    if pool.ndim != 2 or pool.dtype.kind not in "iuf" or len(pool) != len(ids):
        raise InputError(f"{path}: {IMAGES} and {POOL} do not match; it should be {_WHAT}")
    if pool.dtype.kind == "f" and not (np.isfinite(pool).all() and (pool == np.rint(pool)).all()):
        raise InputError(f"{path}: {POOL} should hold rows of {IMAGES}, but has fractions")
    canonical = [canonical_image_id(raw, corpus=corpus, where=f"{path} {IMAGES}[{row}]") for row, raw in enumerate(ids)]
    return without_self(checked_list(canonical, pool, where=path))


def _load(path: Path) -> tuple[list[Any], np.ndarray]:
    """Return the image numbers and the pool, of any shape."""
    try:
        with open_regular(path, what=_WHAT, even_empty=True) as file:
            # latin1 leaves the bytes of Python 2's strings, which hold the arrays, as they are.
            return _contents(load_pickle(file, allowed=_ALLOWED, encoding="latin1"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {_WHAT}") from None
    except RefusedNameError as refused:
        raise InputError(f"{path} needs {refused.name}, which no list needs; nothing of it was run") from None
    except PICKLE_ERRORS as error:
        cause = str(error) or type(error).__name__
        raise InputError(f"{path} is a damaged or foreign pickle ({cause}); it should be {_WHAT}") from None


def _contents(value: Any) -> tuple[list[Any], np.ndarray]:
    if not isinstance(value, dict) or not {POOL, IMAGES} <= value.keys():
        raise ValueError(f"without {POOL} and {IMAGES}")
    ids, pool = (item.array() if isinstance(item, _Array) else item for item in (value[IMAGES], value[POOL]))
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, list) or not isinstance(pool, (list, np.ndarray)):
        raise ValueError(f"{IMAGES} is not a list or {POOL} is not an array")
    return ids, np.asarray(pool)


class _Dtype:
    """Stands in for numpy.dtype."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_flags: Any) -> None:
        self._code: Any = code
        self._order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: Any) -> None:
        self._order = state[1] if state[1] in ("<", ">", "=") else "="

    def dtype(self) -> np.dtype[Any]:
        """Return the type. Raises: ValueError for records, objects and text."""
        dtype = np.dtype(self._code) if isinstance(self._code, str) and len(self._code) <= 3 else np.dtype(object)
        if dtype.kind not in _NUMBERS:
            raise ValueError(f"an array of {self._code!r}")
        ordered: np.dtype[Any] = dtype.newbyteorder(self._order)
        return ordered


class _Array:
    """Stands in for numpy.ndarray."""

    __slots__ = ("_state",)

    def __init__(self, *_arguments: Any) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> np.ndarray:
        """Return the numbers. Raises: ValueError when shape, type and bytes do not match."""
        if len(self._state) != 5:
            raise ValueError("an array without contents")
        _, shape, dtype, is_fortran, data = self._state
        return _array_of(data, dtype, shape, order="F" if is_fortran else "C")


def _array_of(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise ValueError("an array of other than numbers")
    array: np.ndarray = np.frombuffer(data, dtype=dtype.dtype()).reshape(shape, order="F" if order == "F" else "C")
    return array


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> _Array:
    """Rebuild an array as protocol 5 writes it."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    """Return a numpy scalar as a Python number."""
    return _array_of(data, dtype, ()).item()


def _latin1_bytes(text: Any, encoding: Any) -> bytes:
    """Rebuild bytes as protocols below 3 write them: _codecs.encode(text, "latin1")."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


_ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _latin1_bytes,
}
"""The names by which numpy 1 (core) and numpy 2 (_core) pickle arrays -> their stand-ins."""
