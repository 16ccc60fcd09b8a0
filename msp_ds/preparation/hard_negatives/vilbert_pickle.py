"""ViLBERT's hard_negative.pkl, read without running anything that it asks for.

A dict: `train_image_list` [N] image numbers, `train_hard_pool` [N, K] rows of that list as floats, normally the image
itself first. A pickle is a program; this one may only build dicts, lists, numbers, text and arrays of numbers.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msp_ds.data.format.image_ids import Corpus, canonical_image_id
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.lists import HardNegativeList, checked_list, without_self
from msp_ds.storage.small_files import open_regular

POOL, IMAGES = "train_hard_pool", "train_image_list"
_WHAT = f"ViLBERT's hard_negative.pkl, a dict with {IMAGES} and {POOL}"
_NUMBERS = frozenset("biuf")
"""Kinds of plain numbers, in numpy's letters."""
_DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What reading a broken pickle raises."""


def read_hard_negative_pickle(path: Path, *, corpus: Corpus = "coco") -> HardNegativeList:
    """The list in a pickle of protocol 0 to 5, by Python 2 or 3; the image itself dropped, plain numbers of `corpus`.

    Raises: InputError when the file is missing, damaged, of another layout, or asks for anything but arrays, lists,
    dicts, numbers and text; then nothing of it has run.
    """
    ids, pool = _load(path)
    if pool.ndim != 2 or pool.dtype.kind not in "iuf" or len(pool) != len(ids):
        raise InputError(f"{path}: {IMAGES} and {POOL} do not fit each other; it should be {_WHAT}")
    if pool.dtype.kind == "f" and not (np.isfinite(pool).all() and (pool == np.rint(pool)).all()):
        raise InputError(f"{path}: {POOL} should hold rows of {IMAGES}, but has fractions")
    canonical = [canonical_image_id(raw, corpus=corpus, where=f"{path} {IMAGES}[{row}]") for row, raw in enumerate(ids)]
    return without_self(checked_list(canonical, pool, where=path))


def _load(path: Path) -> tuple[list[Any], np.ndarray]:
    """The two parts of the dict, of any shape."""
    try:
        with open_regular(path, what=_WHAT, even_empty=True) as file:
            # latin1 leaves the bytes of Python 2's strings, which hold the arrays, as they are.
            return _parts(_Reader(file, encoding="latin1").load())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {_WHAT}") from None
    except _Refused as refused:
        raise InputError(f"{path} asks for {refused}, which no list needs; nothing of it was run") from None
    except _DAMAGE as error:
        cause = str(error) or type(error).__name__
        raise InputError(f"{path} is a damaged or foreign pickle ({cause}); it should be {_WHAT}") from None


def _parts(value: Any) -> tuple[list[Any], np.ndarray]:
    if not isinstance(value, dict) or not {POOL, IMAGES} <= value.keys():
        raise ValueError(f"without {POOL} and {IMAGES}")
    ids, pool = (part.array() if isinstance(part, _Array) else part for part in (value[IMAGES], value[POOL]))
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, list) or not isinstance(pool, (list, np.ndarray)):
        raise ValueError(f"{IMAGES} is no list or {POOL} no array")
    return ids, np.asarray(pool)


class _Refused(Exception):
    """A name that the pickle may not have."""


class _Dtype:
    """Stands in for numpy.dtype: numpy itself never sees what the pickle says of types, only plain numbers' names."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_flags: Any) -> None:
        self._code: Any = code
        self._order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: Any) -> None:
        self._order = state[1] if state[1] in ("<", ">", "=") else "="

    def dtype(self) -> np.dtype[Any]:
        """The type; ValueError for records, objects and text."""
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
        """The numbers; ValueError when shape, type and bytes do not fit each other."""
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
    """How protocol 5 writes an array."""
    made = _Array()
    made.__setstate__((1, shape, dtype, order == "F", data))
    return made


def _scalar(dtype: Any, data: Any) -> Any:
    """A single number of numpy's, as a plain one."""
    return _array_of(data, dtype, ()).item()


def _latin1_bytes(text: Any, encoding: Any) -> bytes:
    """How protocols below 3 write bytes: _codecs.encode(text, "latin1")."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


class _Admitted:
    """What a name in the pickle stands for. It can be called and, unlike a function, not be altered by the pickle."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a name with a state")


class _Reader(pickle.Unpickler):
    """Knows the names by which numpy 1 and 2 pickle arrays, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of one of numpy's names. Raises: _Refused for any other."""
        makers: dict[str, Callable[..., Any]] = {
            "numpy.dtype": _Dtype,
            "numpy.ndarray": _Array,
            "numpy.core.multiarray._reconstruct": _Array,
            "numpy.core.multiarray.scalar": _scalar,
            "numpy.core.numeric._frombuffer": _from_buffer,
            "_codecs.encode": _latin1_bytes,
        }
        # numpy 2 renamed its core.
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.", 1)
        if full_name not in makers:
            raise _Refused(f"{module}.{name}")
        return _Admitted(makers[full_name])
