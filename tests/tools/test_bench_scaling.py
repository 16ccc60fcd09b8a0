"""The bench of scaling compares rounds, and says of many GPUs what its model says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.presets import get_preset
from tools.bench_scaling import ALONE, SAME_BATCH, SAME_WORK, compared, measured, plans, work_of_step, work_of_turns
from tools.rank_worlds import Turn, World, WorldPlan, timed
from tools.scaling_model import Machine, Work
from tools.scaling_tables import Cluster, advice, as_json


def a_turn(wall: float, cpu: float, *, reducing: float = 0.0, updating: float = 0.0, steps: int = 2) -> Turn:
    return Turn(wall=wall, cpu=cpu, reducing=reducing, updating=updating, steps=steps)


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
    assert Turn.of([first, second], 4) == a_turn(2.5, 2.5, reducing=0.2, updating=0.3, steps=4)


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


def test_the_update_is_left_out_of_the_time_of_a_pair() -> None:
    work = work_of_turns(get_preset("tiny"), [a_turn(5.0, 5.0, updating=1.0, steps=2)], 8)
    assert (work.seconds_a_pair, work.update_seconds) == (0.5, 0.5)


def test_a_measured_step_is_read(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    variant = {"forward": 0.02, "backward": 0.06, "update": 0.004}
    file.write_text(json.dumps({"batch_size": 8, "variants": {"ours, LXMERT-S fp32": variant}}))
    work, size = work_of_step(file)
    assert (work.seconds_a_pair, work.update_seconds, size) == (pytest.approx(0.01), 0.004, 8)
    assert 137e6 < work.parameters < 138e6
    file.write_text("[]")
    with pytest.raises(InputError, match=r"none of bench_step\.py"):
        work_of_step(file)


def test_advice_says_where_zero_and_accumulation_pay() -> None:
    # 18 bytes a parameter without ZeRO and 100 a pair: 280; a link that takes 30 s beside 3 s of compute
    work = Work(seconds_a_pair=3.0, update_seconds=0.0, parameters=10, pair_bytes=100.0)
    machine = Machine(gpus_a_node=1, inside=9.0, between=4 / 3, hop=0.0)
    cluster = Cluster(machine=machine, work=work, micro_batch=1, batch_size=4, gpus=(1, 2), memory_bytes=2.0**30)
    memory, speed, accumulation = advice(cluster)
    assert memory == "Memory: without ZeRO a GPU needs 0.0 of 1 GiB; ZeRO is not needed."
    # 40 bytes both ways, of which 2 s of 30 are hidden; ZeRO 1: 7.5 s of gradients and 7.5 s of weights, 2 hidden
    assert speed.endswith("without ZeRO: ZeRO 1 on 2 GPUs (up to 1.94 x).")
    # 3 k / (3 k + 28) reaches 0.9 at k = 84
    assert accumulation == "Accumulation: 2 GPUs reach 0.90 with 84 passes a step, 168 pairs in a batch."
    assert as_json(cluster)["rows"][0]["pairs_a_second"] == pytest.approx(1 / 3)
    small = Cluster(machine=machine, work=work, micro_batch=1, batch_size=4, gpus=(1, 2), memory_bytes=250.0)
    # per parameter 2 + 2 + 12 / 2 on two GPUs, and a pair: 200
    assert advice(small)[0].startswith("Memory: ZeRO 1 is the first to fit")
