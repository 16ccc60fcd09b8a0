"""The profile of a step loses no time between its shown operators and the others."""

from __future__ import annotations

import dataclasses

import pytest
import tiny

from tools.bench.profile_step import SHOWN, WAYS, memory_table, operators_table, take_steps

SMALL = dataclasses.replace(tiny.CONFIG, vocab_size=1200)  # the pool's pieces are drawn from 1,000 on


@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_made_of_matrix_products_and_an_update(way: str) -> None:
    operators, _ = take_steps(way, SMALL, 4, 1, "cpu")
    times = [event["ms"] for event in operators]
    assert times == sorted(times, reverse=True)
    calls = {event["operator"]: event["calls"] for event in operators}
    # A layer has four linear maps in each of three attentions and two in each of two feed-forward blocks; the cross
    # attention serves two streams.
    assert calls["aten::addmm"] >= SMALL.num_layers * (4 * 4 + 2 * 2)
    assert ("aten::_fused_adamw_" in calls) == way.startswith("ours")
    assert take_steps(way, SMALL, 4, 0, "cpu") == ([], 0)


def test_what_is_not_shown_is_summed_up() -> None:
    operators = [{"operator": f"op {place}", "ms": 1.0, "calls": 2.0} for place in range(SHOWN + 5)]
    cells = [list(column.cells) for column in operators_table("way", operators).columns]
    assert [column[-1] for column in cells] == ["5 others", "5", "33.3%", "10"]
    assert len(cells[0]) == SHOWN + 1


def test_memory_is_compared_with_the_released_way() -> None:
    shares = list(memory_table({"released way": 4 * 2**30, "ours": 2 * 2**30}).columns[2].cells)
    assert shares == ["1.00", "0.50"]
