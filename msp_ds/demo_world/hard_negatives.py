"""Which images look alike, in the layout of ViLBERT's hard-negative list: the image itself, then its nearest others."""

from __future__ import annotations

import numpy as np

from msp_ds.data.nearest import nearest_rows

NEIGHBOURS = 100
"""Columns of the public list."""


def hard_negatives(means: np.ndarray) -> np.ndarray:
    """int32 [N, min(NEIGHBOURS, N)]: the row itself, then the others by (Euclidean distance, row).

    means: float32 [N, F], the mean region feature of each image; may be a memory map.
    """
    own = np.arange(len(means), dtype=np.int32)[:, None]
    return np.concatenate([own, nearest_rows(means, count=NEIGHBOURS - 1)], axis=1)
