"""Reads pickles of dicts, lists, numbers and texts, and runs nothing in them: any name from a module is refused."""

from __future__ import annotations

import collections
import io
import pickle
from typing import Any

PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What unpickling damaged or foreign bytes raises."""


def load_plain(data: bytes) -> Any:
    """The value of a pickle. Raises: one of PICKLE_ERRORS, for damage and for whatever is not plain."""
    return _PlainUnpickler(io.BytesIO(data)).load()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Rows of Python 3.6's csv module are OrderedDicts; nothing else gets a name."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which only runs where the pickle is trusted")

    def persistent_load(self, _: Any) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError("it refers to objects outside of it")
