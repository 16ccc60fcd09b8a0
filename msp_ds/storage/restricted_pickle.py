"""Pickles of other people, read without running them: a reader lists the names it allows, and all others are refused.

A pickle is a program. With an empty list it can build only dicts, lists, numbers, bytes and texts.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

PICKLE_ERRORS = (
    *(pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError),
    *(LookupError, MemoryError, TypeError, ValueError),
)
"""What reading a damaged, foreign or refused pickle raises."""


class RefusedNameError(pickle.UnpicklingError):
    """A pickle needs a name that its reader does not allow."""

    def __init__(self, name: str) -> None:
        """name: `module.name`."""
        super().__init__(f"it needs {name}, which is more than plain values; nothing of it was run")
        self.name = name


def load_pickle(file: BinaryIO, *, allowed: Mapping[str, Callable[..., Any]], encoding: str = "ASCII") -> Any:
    """Return the value of a pickle of any protocol.

    Args:
        allowed: `module.name` in the pickle -> what is called in its place.
        encoding: of the byte strings that Python 2 wrote.

    Raises:
        One of PICKLE_ERRORS, before anything of the pickle has run.
    """
    return _RestrictedUnpickler(file, allowed, encoding).load()


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, allowed: Mapping[str, Callable[..., Any]], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of an allowed name. Raises: RefusedNameError for any other."""
        full_name = f"{module}.{name}"
        if full_name not in self._allowed:
            raise RefusedNameError(full_name)
        return _Callable(self._allowed[full_name])


class _Callable:
    """Stands for a name in the pickle. Unlike a function or class, it has no state that the pickle could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a name with a state")
