"""Exact nearest neighbours by Euclidean distance: coarse products select candidates, float64 differences decide.

N rows, F columns, K neighbours of a row, Q rows of a block.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_BLOCK_CELLS = 60_000_000
"""Approximate distances in memory at once, 240 MB."""
_CHUNK_CELLS = 8_000_000
"""Numbers of `values` that are centred at once, 32 MB."""
_SPARE = 32
"""Candidates beyond the K requested ones, so that most rows need no second search."""
_ROUNDING = 2.0**-24
"""The largest relative error of one float32 operation."""
_COARSE_ROUNDING = 2.0**-9
"""The relative error of rounding to bfloat16."""
_TRIAL = (256, 1024, 2048)
"""Rows, columns and inner size of the products that are timed to find the faster type."""


class NearestRows:
    """The nearest other rows of each row, ordered by (distance, row).

    The error of a float32 product is at most F roundings of the two norms, in any order of its sum; in bfloat16 three
    coarser roundings are added: of both factors and of the result. A row whose approximate distance exceeds the K-th
    true one by more than that bound cannot be among the nearest; all others are measured again as float64 sums of
    squared differences. The result depends neither on threads and blocks nor on the type of the products.
    """

    def __init__(self, values: np.ndarray, *, count: int, products: torch.dtype = torch.float32) -> None:
        """values: float32 [N, F], finite or a memory map. count: K, at most N - 1. products: float32 or bfloat16."""
        self._values = values
        self._products = products
        self.count = min(count, len(values) - 1)
        """K."""
        # Centred, since the norms bound the error, and the norms of raw features are many times their distances.
        self._centre = np.mean(values, axis=0, dtype=np.float64).astype(np.float32)
        parts = [np.einsum("ij,ij->i", part, part, dtype=np.float64) for _, part in self._centred_chunks()]
        self._squares = np.concatenate(parts)
        self._largest: float = np.sqrt(self._squares.max())
        self._workers = ThreadPoolExecutor(os.cpu_count() or 1)

    def blocks(self) -> list[tuple[int, int]]:
        """Return the first and end row of each block, for which `find` needs constant memory."""
        size = max(1, _BLOCK_CELLS // max(1, len(self._values)))
        return [(start, min(start + size, len(self._values))) for start in range(0, len(self._values), size)]

    def find(self, start: int, end: int) -> np.ndarray:
        """Return int32 [Q, K]: the nearest other rows of rows start to end - 1."""
        proposed = self._propose(start, end)
        width = min(self.count + _SPARE, len(self._values) - 1)
        least = torch.topk(proposed, width, dim=1, largest=False)
        is_all = width == len(self._values) - 1
        beyond = np.full(end - start, np.inf) if is_all else least.values[:, -1].double().numpy()
        distances, candidates = proposed.numpy(), np.sort(least.indices.numpy(), axis=1)

        def settle(place: int) -> np.ndarray:
            return self._settle(start + place, distances[place], candidates[place], beyond=float(beyond[place]))

        found = np.empty((end - start, self.count), dtype=np.int32)
        for place, row in enumerate(self._workers.map(settle, range(end - start))):
            found[place] = row
        return found

    def _propose(self, start: int, end: int) -> Tensor:
        """float32 [Q, N]: squared distances minus the row's own square, which is constant; infinite to itself."""
        rows = torch.from_numpy(self._values[start:end] - self._centre).to(self._products)
        proposed = torch.empty(end - start, len(self._values))
        for first, part in self._centred_chunks():
            squares = torch.from_numpy(self._squares[first : first + len(part)].astype(np.float32))
            dots = rows @ torch.from_numpy(part).to(self._products).T
            proposed[:, first : first + len(part)] = torch.sub(squares, dots.float(), alpha=2)
        proposed[torch.arange(end - start), torch.arange(start, end)] = torch.inf
        return proposed

    def _settle(self, row: int, proposed: np.ndarray, candidates: np.ndarray, *, beyond: float) -> np.ndarray:
        """int64 [K]: the nearest of one row. beyond: the least approximate distance of all rows but the candidates."""
        distances = self._measure(row, candidates)
        reach = float(np.partition(distances, self.count - 1)[self.count - 1]) - self._squares[row] + self._error(row)
        if beyond <= reach:
            candidates = np.flatnonzero(proposed <= reach)
            distances = self._measure(row, candidates)
        # Candidates ascend, so a stable sort puts the lower row first among equals.
        return candidates[np.argsort(distances, kind="stable")[: self.count]]

    def _measure(self, row: int, others: np.ndarray) -> np.ndarray:
        """float64 [C]: squared distances of a row to int64 [C] others."""
        size = max(1, _CHUNK_CELLS // self._values.shape[1])
        squares = []
        for start in range(0, len(others), size):
            gaps = np.subtract(self._values[others[start : start + size]], self._values[row], dtype=np.float64)
            squares.append(np.einsum("ij,ij->i", gaps, gaps))
        return np.concatenate(squares)

    def _error(self, row: int) -> float:
        """The largest error of an approximate distance of this row."""
        norm = float(np.sqrt(self._squares[row]))
        one = (self._values.shape[1] + 4) * _ROUNDING
        one += 3 * _COARSE_ROUNDING if self._products == torch.bfloat16 else 0.0
        # The second term is for the roundings of the centring, the square and the final sum.
        bound = 2 * one * norm * self._largest + 4 * _ROUNDING * (norm + self._largest) ** 2
        return float(1.02 * bound)

    def _centred_chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        size = max(1, _CHUNK_CELLS // self._values.shape[1])
        for start in range(0, len(self._values), size):
            yield start, self._values[start : start + size] - self._centre


def faster_products() -> torch.dtype:
    """Return float32, or bfloat16 on a processor that multiplies it at least twice as fast."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, columns = torch.ones(_TRIAL[0], _TRIAL[2], dtype=dtype), torch.ones(_TRIAL[1], _TRIAL[2], dtype=dtype)
        trials = []
        for _ in range(3):
            start = time.perf_counter()
            rows @ columns.T
            trials.append(time.perf_counter() - start)
        seconds[dtype] = min(trials)
    # A coarse product leaves more rows to be measured, so it must be much faster.
    return torch.bfloat16 if seconds[torch.bfloat16] < seconds[torch.float32] / 2 else torch.float32


def nearest_rows(values: np.ndarray, *, count: int, products: torch.dtype = torch.float32) -> np.ndarray:
    """Return int32 [N, min(count, N - 1)]: the nearest other rows of float32 [N, F], ordered by (distance, row)."""
    if len(values) < 2 or count < 1:
        return np.empty((len(values), 0), dtype=np.int32)
    nearest = NearestRows(values, count=count, products=products)
    return np.concatenate([nearest.find(start, end) for start, end in nearest.blocks()])
