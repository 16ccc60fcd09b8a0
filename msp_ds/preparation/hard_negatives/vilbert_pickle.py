"""Read ViLBERT's hard_negative.pkl without running anything in it.

The pickle is a dict: `train_image_list` [N] image numbers, `train_hard_pool` [N, K] rows of that list as floats,
normally the image itself first.
"""

from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.data.format.image_ids import Corpus, canonical_image_id
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.hard_negative_list import HardNegativeList, checked_list, without_self
from msp_ds.storage.pickled_arrays import ARRAY_NAMES, as_array
from msp_ds.storage.restricted_pickle import PICKLE_ERRORS, RefusedNameError, load_pickle
from msp_ds.storage.small_files import open_regular

POOL, IMAGES = "train_hard_pool", "train_image_list"
_WHAT = f"ViLBERT's hard_negative.pkl, a dict with {IMAGES} and {POOL}"


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
            return _contents(load_pickle(file, allowed=ARRAY_NAMES, encoding="latin1"))
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
    ids, pool = (as_array(value[name]) for name in (IMAGES, POOL))
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, list) or not isinstance(pool, (list, np.ndarray)):
        raise ValueError(f"{IMAGES} is not a list or {POOL} is not an array")
    return ids, np.asarray(pool)
