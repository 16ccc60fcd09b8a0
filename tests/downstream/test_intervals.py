"""Bootstrap intervals agree with formulas, with resampling in a loop, and with themselves."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from msp_ds.downstream.intervals import Resampling, median_rank_of_kinds, ratio
from msp_ds.downstream.score import Score, scores_by
from msp_ds.errors import InputError

RESAMPLING = Resampling(num_resamples=4000)


def looped_interval(values: list[float], units: list[int], *, num_resamples: int) -> tuple[float, float]:
    """Draw units with replacement, one by one."""
    rng = random.Random(0)
    of_unit: dict[int, list[float]] = {}
    for unit, value in zip(units, values, strict=True):
        of_unit.setdefault(unit, []).append(value)
    found = []
    for _ in range(num_resamples):
        drawn = [value for _ in of_unit for value in rng.choice(list(of_unit.values()))]
        found.append(100 * sum(drawn) / len(drawn))
    found.sort()
    return found[int(0.025 * num_resamples)], found[int(0.975 * num_resamples)]


def test_the_interval_of_a_ratio_is_two_standard_errors_wide() -> None:
    score = Score(values=(1.0, 0.0, 0.0, 0.0) * 300)
    low, high = score.interval(RESAMPLING)
    error = 100 * math.sqrt(0.25 * 0.75 / 1200)
    assert (low, high) == (pytest.approx(25 - 1.96 * error, abs=0.2), pytest.approx(25 + 1.96 * error, abs=0.2))


def test_units_are_drawn_with_all_their_values() -> None:
    rng = random.Random(1)
    units = [unit for unit in range(60) for _ in range(rng.randrange(1, 6))]
    level = [rng.random() for _ in range(60)]
    values = [float(rng.random() < level[unit]) for unit in units]
    low, high = Score(values=tuple(values), units=np.array(units)).interval(RESAMPLING)
    expected = looped_interval(values, units, num_resamples=4000)
    assert (low, high) == (pytest.approx(expected[0], abs=0.8), pytest.approx(expected[1], abs=0.8))


def test_equal_captions_of_an_image_widen_the_interval() -> None:
    values = (1.0,) * 5 * 100 + (0.0,) * 5 * 100
    single = Score(values=values).interval(RESAMPLING)
    whole = Score(values=values, units=np.arange(200).repeat(5)).interval(RESAMPLING)
    # a fifth of the units: sqrt(5) times as wide
    assert (whole.high - whole.low) / (single.high - single.low) == pytest.approx(math.sqrt(5), rel=0.08)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    score = Score(values=tuple(np.random.default_rng(0).random(50).tolist()))
    assert score.interval(Resampling(seed=3)) == score.interval(Resampling(seed=3))
    assert score.interval(Resampling(seed=3)) != score.interval(Resampling(seed=4))


def test_the_blocks_in_which_is_drawn_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    score = Score(values=tuple(np.random.default_rng(0).random(50).tolist()))
    whole = score.interval(RESAMPLING)
    monkeypatch.setattr("msp_ds.downstream.intervals._BLOCK", 70)
    assert score.interval(RESAMPLING) == pytest.approx(whole, rel=1e-12)  # sums of other shapes: the last bit


def test_a_difference_is_taken_question_by_question() -> None:
    rng = random.Random(0)
    theirs = [float(rng.random() < 0.5) for _ in range(1000)]
    ours = [1.0 if place % 50 == 0 else value for place, value in enumerate(theirs)]
    gained = sum(ours) - sum(theirs)
    difference, (low, high) = Score(values=tuple(ours)).difference(Score(values=tuple(theirs)), RESAMPLING)
    # `gained` questions of a thousand, a count whose deviation is its root; unpaired, 3.1 points either way
    assert difference == pytest.approx(gained / 10)
    assert low == pytest.approx((gained - 1.96 * math.sqrt(gained)) / 10, abs=0.15)
    assert high == pytest.approx((gained + 1.96 * math.sqrt(gained)) / 10, abs=0.15)


def test_a_system_does_not_differ_from_itself() -> None:
    score = Score(values=(0.3, 1.0, 0.0))
    assert score.difference(score, RESAMPLING) == (0.0, (0.0, 0.0))


def test_scores_without_pairs_are_not_compared() -> None:
    with pytest.raises(InputError, match="2 and 1 questions"):
        Score(values=(1.0, 0.0)).difference(Score(values=(1.0,)), RESAMPLING)
    with pytest.raises(InputError, match="over different questions"):
        Score(values=(1.0,), is_paired=False).difference(Score(values=(1.0,)), RESAMPLING)


def test_the_median_of_resampled_ranks_is_that_of_their_list() -> None:
    rng = np.random.default_rng(0)
    kinds = np.array([[0.0, 4.0, 7.0], [-1.0, 2.0, 9.0], [-1.0, -1.0, 5.0], [1.0, 1.0, 3.0]])
    counts = rng.multinomial(6, [0.25] * 4, size=50)
    expected = []
    for drawn in counts:
        ranks = [rank for kind, times in zip(kinds, drawn, strict=True) for rank in list(kind[kind >= 0]) * times]
        expected.append(math.floor(np.median(ranks) + 1))
    assert median_rank_of_kinds(counts, kinds).tolist() == expected


def test_nothing_drawn_that_counts_is_no_number() -> None:
    shares = ratio(np.array([[0, 2], [1, 1]]), np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert math.isnan(shares[0])
    assert shares[1] == 0.75
    assert all(math.isnan(end) for end in Score(values=()).interval(RESAMPLING))


def test_no_resamples_are_refused() -> None:
    with pytest.raises(InputError, match="0 resamples"):
        Resampling(num_resamples=0)


def test_scores_by_name_leave_out_what_has_none() -> None:
    found = scores_by(["b", "a", "", "b"], [1.0, 0.5, 0.0, 0.0])
    assert {name: score.values for name, score in found.items()} == {"b": (1.0, 0.0), "a": (0.5,)}
