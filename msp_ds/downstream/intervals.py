"""How far a grade would move on other questions of the same kind: bootstrap intervals, and of differences.

A resample draws as many units (questions, or images with all that is asked about them) as there are, with replacement.
How often each *kind* of unit is drawn is multinomial, so only the distinct rows of values are counted: the exact
bootstrap, at a cost that does not grow with 200,000 questions worth 0, 0.3, 0.6, 0.9 or 1.

K kinds of units, S resamples. Counts are int64, values float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msp_ds.errors import InputError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LEVEL = 0.95
_BLOCK = 1 << 20  # counts held at once


class Interval(NamedTuple):
    """Where 95 % of the resamples lie; both ends nan where no resample had a value."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How often, and by which numbers, is resampled."""

    num_resamples: int = 2000
    seed: int = 0  # same seed, same intervals

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise InputError(f"{self.num_resamples} resamples give no interval; ask for 1000 or more")

    def of(
        self, rows: Floats, statistic: Callable[[Counts, Floats], Floats], *, centre: float | None = None
    ) -> Interval:
        """The interval of `statistic(how often each kind, int64 [S, K]; kinds, float64 [K, C]) -> float64 [S]`.

        rows: float64 [units, C], what each unit contributes. centre: shift the resamples until this is their mean, for
        a statistic that resampling itself moves.
        """
        if not len(rows):
            return Interval(float("nan"), float("nan"))
        kinds, counts = np.unique(rows, axis=0, return_counts=True)
        drawer = np.random.Generator(np.random.Philox(self.seed))
        at_once = max(1, _BLOCK // len(kinds))
        found = [
            statistic(
                drawer.multinomial(len(rows), counts / len(rows), size=min(at_once, self.num_resamples - start)), kinds
            )
            for start in range(0, self.num_resamples, at_once)
        ]
        return _middle(np.concatenate(found), centre)


def _middle(statistics: Floats, centre: float | None) -> Interval:
    known = statistics[~np.isnan(statistics)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    if centre is not None:
        known = known - known.mean() + centre
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def ratio(counts: Counts, kinds: Floats) -> Floats:
    """Sum of the first column over the sum of the second: float64 [S], nan where the latter is 0."""
    above, below = (counts @ kinds).T
    shares: Floats = np.divide(above, below, out=np.full(len(counts), np.nan), where=below > 0)
    return shares


def median_rank_of_kinds(counts: Counts, kinds: Floats) -> Floats:
    """floor(median + 1) of all ranks: float64 [S].

    kinds: float64 [K, C], the ranks from 0 that each unit has; -1 fills up where it has fewer.
    """
    ranks = kinds.ravel()
    order = np.argsort(ranks, kind="stable")
    ranks = ranks[order]
    times = counts.repeat(kinds.shape[1], axis=1)[:, order] * (ranks >= 0)
    up_to = times.cumsum(axis=1)
    total = up_to[:, -1]
    # The two in the middle, which of an odd number are one; argmax finds the first rank that reaches so far.
    lower, upper = ((up_to >= place[:, None]).argmax(axis=1) for place in ((total + 1) // 2, total // 2 + 1))
    medians: Floats = np.floor((ranks[lower] + ranks[upper]) / 2 + 1)
    return medians
