"""GQA's distribution grade: whether each answer to a group of questions is predicted as often as it is right.

    grade = 1/100 sum_g n_g / n  sum_a (p_ga - r_ga)^2 / r_ga

n_g of the n questions are in group g; r_ga counts the questions of the group whose right answer is a, p_ga those for
which a is predicted. Answers that are never right in a group do not count.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msp_ds.downstream.intervals import Counts, Floats, Interval, Resampling


class GroupedAnswer(NamedTuple):
    """A question's group, its right answer and the predicted one."""

    group: str
    right: str
    predicted: str


def distribution(outcomes: Sequence[GroupedAnswer]) -> float:
    """Return the grade of a set of questions; nan for an empty set."""
    right = Counter((outcome.group, outcome.right) for outcome in outcomes)
    predicted = Counter((outcome.group, outcome.predicted) for outcome in outcomes)
    distance: dict[str, float] = {}
    size: Counter[str] = Counter()
    for (group, answer), expected in right.items():
        observed = predicted[group, answer]
        distance[group] = distance.get(group, 0) + float(observed - expected) ** 2 / expected
        size[group] += expected
    total = 0.0
    for group, number in size.items():
        total += distance[group] * number
    return total / sum(size.values()) / 100 if size else float("nan")


def resampled_distribution(outcomes: Sequence[GroupedAnswer], resampling: Resampling) -> Interval:
    """Return the bootstrap interval of the grade over resampled questions; nan for an empty set.

    The resamples are centred on the grade, because the added noise of resampling can only raise a chi-square.
    """
    right_cells = sorted({(outcome.group, outcome.right) for outcome in outcomes})
    numbers = {cell: number for number, cell in enumerate(right_cells)}
    groups = np.unique([group for group, _ in right_cells], return_inverse=True)[1]
    rows = np.array(
        [
            (numbers[outcome.group, outcome.right], numbers.get((outcome.group, outcome.predicted), len(numbers)))
            for outcome in outcomes
        ],
        dtype=np.float64,
    ).reshape(-1, 2)

    def statistic(counts: Counts, kinds: Floats) -> Floats:
        right, predicted = (
            _summed(counts, kinds[:, column].astype(np.int64), len(numbers) + 1)[:, :-1] for column in (0, 1)
        )
        terms = np.divide((predicted - right) ** 2, right, out=np.zeros(right.shape), where=right > 0)
        by_group, size = (_summed(part, groups, int(groups.max()) + 1) for part in (terms, right))
        return np.asarray((by_group * size).sum(axis=1) / size.sum(axis=1) / 100, dtype=np.float64)

    return resampling.of(rows, statistic, centre=distribution(outcomes))


def _summed(table: Floats | Counts, places: NDArray[np.int64], num_places: int) -> Floats:
    """Sum the columns of [S, K] by place: float64 [S, num_places]."""
    order = np.argsort(places, kind="stable")
    present, starts = np.unique(places[order], return_index=True)
    total: Floats = np.zeros((len(table), num_places))
    total[:, present] = np.add.reduceat(table[:, order], starts, axis=1)
    return total
