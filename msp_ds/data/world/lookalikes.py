"""Which images look alike: exact nearest neighbours over the mean region feature, as ViLBERT's hard-negative list."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 100
"""Columns of the public list."""

_BLOCK_CELLS = 4_000_000
_CHUNK = 1024


def look_alikes(means: np.ndarray, *, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """int32 [N, min(neighbours, N)]: rows by Euclidean distance, nearest first: column 0 is normally the row.

    means: float32 [N, F], may be a memory map. Distances are float64; of equal ones the lower row comes first. Memory
    is a few blocks of 4 million distances, whatever N.
    """
    rows, width = len(means), min(neighbours, len(means))
    centre = np.asarray(np.mean(means, axis=0, dtype=np.float64))
    norms = np.concatenate([((part - centre) ** 2).sum(1) for part in _chunks(means)])
    found = np.empty((rows, width), dtype=np.int32)
    block = max(1, _BLOCK_CELLS // max(rows, 1))
    for start in range(0, rows, block):
        queries = means[start : start + block] - centre
        distances = _distances(queries, means, centre=centre, norms=norms)
        found[start : start + block] = _nearest(distances, width)
    return found


def _distances(queries: np.ndarray, means: np.ndarray, *, centre: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """float64 [Q, N]: squared distances, less the query's own norm, which orders nothing."""
    dots = np.concatenate([queries @ (part - centre).T for part in _chunks(means)], axis=1)
    return np.asarray(norms - 2.0 * dots)


def _chunks(means: np.ndarray) -> list[np.ndarray]:
    return [means[start : start + _CHUNK] for start in range(0, len(means), _CHUNK)]


def _nearest(distances: np.ndarray, width: int) -> np.ndarray:
    """int64 [Q, width]: the columns of the smallest distances, in order."""
    if width < distances.shape[1]:
        columns = np.sort(np.argpartition(distances, width - 1, axis=1)[:, :width], axis=1)
    else:
        columns = np.broadcast_to(np.arange(width), distances.shape)
    order = np.argsort(np.take_along_axis(distances, columns, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(columns, order, axis=1))
