"""A score of a benchmark with the values that it is the mean of, from which intervals and differences follow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Self

import numpy as np

from msp_ds.downstream.intervals import Counts, Floats, Interval, Resampling, ratio
from msp_ds.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over questions, sentences or images, in percent."""

    values: tuple[float, ...] = field(repr=False)
    """The value of each question (sentence, image) that counts, from 0 to 1, in the file's order."""
    units: Counts | None = field(default=None, repr=False)
    """int64, as long as values: the unit that each belongs to, such as the image of a caption; None for one each."""
    is_paired: bool = True
    """Whether the same questions count for every model, so that two models can be compared question by question."""
    rounds_as_vqa: bool = False
    """Whether `rounded` follows VQA's official rounding."""

    @property
    def fraction(self) -> float:
        """The mean, from 0 to 1; nan when nothing counts."""
        # sum() in the file's order, as the official scripts add: another order differs in the last bit.
        return float(sum(self.values)) / len(self.values) if self.values else float("nan")

    @property
    def percent(self) -> float:
        """The mean times 100, as GQA's script computes it."""
        return self.fraction * 100

    @property
    def rounded(self) -> float:
        """The percentage to two decimals, as the benchmark's official tool rounds it; nan when nothing counts."""
        if self.rounds_as_vqa and self.values:
            # VQA's tool multiplies before it divides, which half-way cases show.
            return round_as_python_2(100 * float(sum(self.values)) / self.num, decimals=2)
        return round(self.percent, 2)

    @property
    def num(self) -> int:
        """The number of values."""
        return len(self.values)

    def interval(self, resampling: Resampling) -> Interval:
        """The 95 % bootstrap interval, in percent; units are drawn with all their values."""
        return _percent(resampling.of(self._rows(np.asarray(self.values)), ratio))

    def difference(self, other: Self, resampling: Resampling) -> tuple[float, Interval]:
        """Return this score minus another model's on the same questions, and its interval over the same resamples.

        Raises InputError when the two are not over the same questions.
        """
        if not (self.is_paired and other.is_paired):
            raise InputError("scores over different questions of each model cannot be compared question by question")
        if self.num != other.num:
            raise InputError(f"scores of {self.num} and {other.num} questions cannot be compared question by question")
        gains = np.asarray(self.values) - np.asarray(other.values)
        return self.percent - other.percent, _percent(resampling.of(self._rows(gains), ratio))

    def _rows(self, values: Floats) -> Floats:
        """float64 [units, 2]: sum and number of each unit's values."""
        if self.units is None:
            return np.stack([values, np.ones(len(values))], axis=1)
        _, places = np.unique(self.units, return_inverse=True)
        return np.stack([np.bincount(places, weights=values), np.bincount(places).astype(np.float64)], axis=1)


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.low, 100 * interval.high)


def round_as_python_2(value: float, *, decimals: int) -> float:
    """Round a finite number as Python 2.7 does: by its exact binary value, exact halves away from zero.

    The official tools for VQA run on Python 2: 78.125 becomes 78.13 there, 78.12 in Python 3. 2.675, whose double lies
    below it, becomes 2.67 in both.
    """
    return float(Decimal(value).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP))


def scores_by(names: Sequence[str], values: Sequence[float], *, rounds_as_vqa: bool = False) -> dict[str, Score]:
    """Return the score of each name, in the order of first appearance; values without a name do not count."""
    found: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        if name:
            found.setdefault(name, []).append(value)
    return {name: Score(values=tuple(some), rounds_as_vqa=rounds_as_vqa) for name, some in found.items()}
