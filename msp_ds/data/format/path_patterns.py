"""Brace patterns for several paths or addresses, as in shells and webdataset: `{000..099}.tsv`."""

import os
import re
from collections.abc import Iterable
from itertools import islice

from braceexpand import braceexpand

from msp_ds.data.format.image_ids import split_corpus
from msp_ds.errors import InputError

MOST_PATHS = 100_000
"""Paths that one pattern may stand for."""
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?\}")


def expand_braces(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the paths that the patterns stand for, in order; a file with braces in its name stands for itself.

    Raises: InputError for braces that are not closed and for a pattern of more than MOST_PATHS.
    """
    return tuple(path for pattern in patterns for path in _paths(pattern))


def _paths(pattern: str) -> Iterable[str]:
    if "{" not in pattern or os.path.exists(split_corpus(pattern)[1]):  # False for names that are too long
        return (pattern,)
    spans = [abs(int(last) - int(first)) for first, last in _RANGE.findall(pattern)]
    try:
        # braceexpand expands a whole range before anything can be counted.
        paths = tuple(islice(braceexpand(pattern), MOST_PATHS + 1)) if max(spans, default=0) <= MOST_PATHS else None
    except ValueError as error:
        raise InputError(f"{pattern} is not a brace pattern ({error}); write {{a,b}} or {{000..099}}") from None
    if paths is None or len(paths) > MOST_PATHS:
        raise InputError(f"{pattern} stands for more than {MOST_PATHS:,} paths; write several patterns")
    return paths
