"""Exact nearest neighbours by Euclidean distance: fast products find candidates, float64 differences rank them.

N rows, F columns, K neighbours of a row, Q rows of a block.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_BLOCK_CELLS = 60_000_000  # approximate distances held at once, 240 MB
_CHUNK_CELLS = 8_000_000  # numbers of `values` that are centred at once, 32 MB
_SPARE = 32  # candidates beyond K: with them most rows need no second search
_ROUNDING = 2.0**-24  # the largest relative error of one float32 operation
_COARSE_ROUNDING = 2.0**-9  # the largest relative error of rounding to bfloat16
_TRIAL = (256, 1024, 2048)  # rows, columns and inner size of the matrix products that time the two types


class NearestRows:
    """The nearest other rows of each row, ordered by (distance, row).

    The error of a product in float32 is at most F roundings of the two norms in any order of summation; bfloat16 adds
    three coarser roundings, of each factor and of the result. A row whose approximate distance exceeds the K-th true
    one by more than that bound cannot be among the nearest. The distances of all other rows are computed again as sums
    of squared differences in float64. So the result does not depend on threads, blocks or the type of the products.
    """

    def __init__(self, values: np.ndarray, *, count: int, products: torch.dtype = torch.float32) -> None:
        """values: finite float32 [N, F], possibly a memory map. count: K. products: float32 or bfloat16."""
        self._values = values
        self._products = products
        self.count = min(count, len(values) - 1)
        """K."""
        # Centred, because the norms bound the error; of raw features they are many times their distances.
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
        """Return the nearest other rows of rows start to end - 1, int32 [Q, K]."""
        approximate = self._approximate_distances(start, end)
        width = min(self.count + _SPARE, len(self._values) - 1)
        least = torch.topk(approximate, width, dim=1, largest=False)
        is_all = width == len(self._values) - 1
        beyond = np.full(end - start, np.inf) if is_all else least.values[:, -1].double().numpy()
        distances, candidates = approximate.numpy(), np.sort(least.indices.numpy(), axis=1)

        def rank(index: int) -> np.ndarray:
            return self._rank_exactly(start + index, distances[index], candidates[index], beyond=float(beyond[index]))

        found = np.empty((end - start, self.count), dtype=np.int32)
        for index, row in enumerate(self._workers.map(rank, range(end - start))):
            found[index] = row
        return found

    def _approximate_distances(self, start: int, end: int) -> Tensor:
        """Return approximate squared distances minus the row's own square, float32 [Q, N]; infinite to itself."""
        rows = torch.from_numpy(self._values[start:end] - self._centre).to(self._products)
        approximate = torch.empty(end - start, len(self._values))
        for first, part in self._centred_chunks():
            squares = torch.from_numpy(self._squares[first : first + len(part)].astype(np.float32))
            dots = rows @ torch.from_numpy(part).to(self._products).T
            approximate[:, first : first + len(part)] = torch.sub(squares, dots.float(), alpha=2)
        approximate[torch.arange(end - start), torch.arange(start, end)] = torch.inf
        return approximate

    def _rank_exactly(self, row: int, approximate: np.ndarray, candidates: np.ndarray, *, beyond: float) -> np.ndarray:
        """Return the nearest rows of one row, int64 [K]. beyond: lower bound of what was approximate for other rows."""
        distances = self._exact_distances(row, candidates)
        reach = float(np.partition(distances, self.count - 1)[self.count - 1]) - self._squares[row] + self._error(row)
        if beyond <= reach:
            candidates = np.flatnonzero(approximate <= reach)
            distances = self._exact_distances(row, candidates)
        # Candidates ascend, so a stable sort puts the lower row first among equal distances.
        return candidates[np.argsort(distances, kind="stable")[: self.count]]

    def _exact_distances(self, row: int, others: np.ndarray) -> np.ndarray:
        """Return the squared distances of a row to `others`, int64 [C], as float64 [C]."""
        size = max(1, _CHUNK_CELLS // self._values.shape[1])
        squares = []
        for start in range(0, len(others), size):
            gaps = np.subtract(self._values[others[start : start + size]], self._values[row], dtype=np.float64)
            squares.append(np.einsum("ij,ij->i", gaps, gaps))
        return np.concatenate(squares)

    def _error(self, row: int) -> float:
        """Return a bound of the error of this row's approximate distances."""
        norm = float(np.sqrt(self._squares[row]))
        one = (self._values.shape[1] + 4) * _ROUNDING
        one += 3 * _COARSE_ROUNDING if self._products == torch.bfloat16 else 0.0
        # The second term: centring, the square and the final sum round too.
        bound = 2 * one * norm * self._largest + 4 * _ROUNDING * (norm + self._largest) ** 2
        return float(1.02 * bound)

    def _centred_chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        size = max(1, _CHUNK_CELLS // self._values.shape[1])
        for start in range(0, len(self._values), size):
            yield start, self._values[start : start + size] - self._centre


def faster_products() -> torch.dtype:
    """Return bfloat16 on a processor that multiplies it more than twice as fast as float32, else float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, columns = torch.ones(_TRIAL[0], _TRIAL[2], dtype=dtype), torch.ones(_TRIAL[1], _TRIAL[2], dtype=dtype)
        trials = []
        for _ in range(3):
            start = time.perf_counter()
            rows @ columns.T
            trials.append(time.perf_counter() - start)
        seconds[dtype] = min(trials)
    # Coarse products leave more candidates: the speed must outweigh that.
    return torch.bfloat16 if seconds[torch.bfloat16] < seconds[torch.float32] / 2 else torch.float32


def nearest_rows(values: np.ndarray, *, count: int, products: torch.dtype = torch.float32) -> np.ndarray:
    """Return the nearest other rows of float32 [N, F] by (distance, row), int32 [N, min(count, N - 1)]."""
    if len(values) < 2 or count < 1:
        return np.empty((len(values), 0), dtype=np.int32)
    nearest = NearestRows(values, count=count, products=products)
    return np.concatenate([nearest.find(start, end) for start, end in nearest.blocks()])
