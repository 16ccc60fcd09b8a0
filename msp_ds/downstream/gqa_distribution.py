"""GQA's distribution grade: do answers to a group of questions occur as often as they should?

Over the right answers of each group, the sum of (given - right)^2 / right, counts of each answer; over the groups, the
mean weighted by their questions; divided by 100. What is given but never right counts nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msp_ds.downstream.intervals import Counts, Floats, Interval, Resampling


class GroupedAnswer(NamedTuple):
    """What came of a question: its group of questions, the right answer, the given one."""

    group: str
    right: str
    given: str


def distribution(outcomes: Sequence[GroupedAnswer]) -> float:
    """The grade of a set of questions; nan for none."""
    right = Counter((outcome.group, outcome.right) for outcome in outcomes)
    given = Counter((outcome.group, outcome.given) for outcome in outcomes)
    distance: dict[str, float] = {}
    size: Counter[str] = Counter()
    for (group, answer), expected in right.items():
        observed = given[group, answer]
        distance[group] = distance.get(group, 0) + float(observed - expected) ** 2 / expected
        size[group] += expected
    total = 0.0
    for group, number in size.items():
        total += distance[group] * number
    return total / sum(size.values()) / 100 if size else float("nan")


def resampled_distribution(outcomes: Sequence[GroupedAnswer], resampling: Resampling) -> Interval:
    """The bootstrap interval of the grade, questions resampled; nan for none.

    Resampling adds chance to chance, which only ever raises a chi-square: the resamples are centred on the grade.
    """
    if not outcomes:
        return Interval(float("nan"), float("nan"))
    right_cells = sorted({(outcome.group, outcome.right) for outcome in outcomes})
    numbers = {cell: number for number, cell in enumerate(right_cells)}
    groups = np.unique([group for group, _ in right_cells], return_inverse=True)[1]
    rows = np.array(
        [
            (numbers[outcome.group, outcome.right], numbers.get((outcome.group, outcome.given), len(numbers)))
            for outcome in outcomes
        ],
        dtype=np.float64,
    ).reshape(-1, 2)

    def statistic(counts: Counts, kinds: Floats) -> Floats:
        right, given = (
            _summed(counts, kinds[:, column].astype(np.int64), len(numbers) + 1)[:, :-1] for column in (0, 1)
        )
        terms = np.divide((given - right) ** 2, right, out=np.zeros(right.shape), where=right > 0)
        by_group, size = (_summed(part, groups, int(groups.max()) + 1) for part in (terms, right))
        return np.asarray((by_group * size).sum(axis=1) / size.sum(axis=1) / 100, dtype=np.float64)

    return resampling.of(rows, statistic, centre=distribution(outcomes))


def _summed(table: Floats | Counts, places: NDArray[np.int64], num_places: int) -> Floats:
    """Columns of [S, K] added up by place: float64 [S, num_places]."""
    order = np.argsort(places, kind="stable")
    present, starts = np.unique(places[order], return_index=True)
    total: Floats = np.zeros((len(table), num_places))
    total[:, present] = np.add.reduceat(table[:, order], starts, axis=1)
    return total
