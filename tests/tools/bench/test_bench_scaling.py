"""The bench of scaling compares rounds."""

from __future__ import annotations

import pytest

from tools.bench.common.rank_worlds import Turn, World, WorldPlan, timed
from tools.bench.scaling import ALONE, SAME_BATCH, SAME_WORK, compared, measured, plans


def a_turn(wall: float, cpu: float, *, reducing: float = 0.0, updating: float = 0.0) -> Turn:
    return Turn(wall=wall, cpu=cpu, reducing=reducing, updating=updating)


def test_pairs_a_second_are_compared_by_rounds() -> None:
    turns = {
        ALONE: [a_turn(2.0, 2.0), a_turn(4.0, 2.0), a_turn(2.0, 2.0)],
        SAME_WORK: [a_turn(2.0, 5.0), a_turn(2.0, 5.0), a_turn(4.0, 5.0, reducing=1.0)],
    }
    found = compared(turns, {ALONE: 10, SAME_WORK: 20})
    two = found[SAME_WORK]
    # rounds: 10 to 5, 10 to 2.5, 5 to 5; two cores at 4 pairs a CPU second, to one at 5
    assert (two["to_one_rank"]["least"], two["to_one_rank"]["median"], two["to_one_rank"]["most"]) == (1.0, 2.0, 4.0)
    assert two["at_most"] == pytest.approx(2 * 4 / 5)
    assert two["pairs_a_second"] == 10.0
    assert found[ALONE]["to_one_rank"]["median"] == found[ALONE]["at_most"] == 1.0


def test_ranks_of_a_world_make_one_turn() -> None:
    first = {"wall": 2.0, "cpu": 1.0, "reducing": 0.5, "updating": 0.1}
    second = {"wall": 2.5, "cpu": 1.5, "reducing": 0.2, "updating": 0.3}
    assert Turn.of([first, second]) == a_turn(2.5, 2.5, reducing=0.2, updating=0.3)


def test_calls_are_timed_also_when_they_fail() -> None:
    spent = {"failing": 0.0}

    def fails() -> None:
        raise ValueError("fails by itself")

    with pytest.raises(ValueError, match="by itself"):
        timed(fails, spent, "failing")()
    assert spent["failing"] > 0


class Recorded(World):
    """A world that only notes its turns."""

    def __init__(self, plan: WorldPlan, into: list[str]) -> None:
        self.plan, self.into = plan, into

    def train(self, steps: int) -> Turn:
        self.into.append(self.plan.name)
        return a_turn(1.0, 1.0)


def test_worlds_take_turns_every_other_round_in_reverse() -> None:
    order: list[str] = []
    worlds = [Recorded(plan, order) for plan in plans("tiny", 8, {})]
    turns = measured(worlds, steps=2, repeat=2)
    names = [ALONE, SAME_BATCH, SAME_WORK]
    assert order == names + names[::-1] + names
    assert [len(turns[name]) for name in names] == [2, 2, 2]
    assert [plan.batch_size for plan in plans("tiny", 8, {})] == [8, 8, 16]
