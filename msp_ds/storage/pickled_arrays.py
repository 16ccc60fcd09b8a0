"""Arrays in pickles, rebuilt from plain numbers by stand-ins: numpy itself never sees what the pickle says of types and
shapes.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

_NUMBERS = frozenset("biuf")
"""Kinds of plain numbers, in numpy's letters."""


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


def as_array(value: Any) -> Any:
    """Return the array that a value of such a pickle stands for, any other value as it is.

    Raises: ValueError when shape, type and bytes do not match, and for arrays of other things than numbers.
    """
    return value.array() if isinstance(value, _Array) else value


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


ARRAY_NAMES: dict[str, Callable[..., Any]] = {
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
"""What `load_pickle` allows for arrays: the names by which numpy 1 (core) and numpy 2 (_core) pickle them -> stand-ins.

The encoding must be latin1, which leaves the bytes of Python 2's strings as they are.
"""
