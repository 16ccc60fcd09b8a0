"""The curriculum is the paper's table, in any order, together or apart; and nothing is misread."""

from __future__ import annotations

import itertools

import pytest

from msp_ds.config import StageSchedule
from msp_ds.curriculum import STAGES, Stage, curriculum
from msp_ds.errors import InputError
from msp_ds.presets import PRESETS
from msp_ds.tasks import TASKS

TABLE = {
    "token": ["mlm", "mrfr", "moc", "ifrs"],
    "phrase": ["mlm", "mrfr", "moc", "titp"],
    "sentence": ["mlm", "mrfr", "moc", "tits", "itm_hs"],
}
"""Sections 3.1 to 3.3 of the paper."""

ORDERS = ["".join(letters) for size in (1, 2, 3) for letters in itertools.permutations("tps", size)]


def tasks(stage: Stage) -> list[str]:
    return [task.name for task in stage.tasks]


def refusal(spelling: str, drop: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as caught:
        curriculum(spelling, drop=drop)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_stages_are_the_papers_three() -> None:
    assert {part.name: [task.name for task in part.tasks] for part in STAGES} == TABLE
    assert [part.initial for part in STAGES] == ["t", "p", "s"]


def test_every_task_has_a_stage_and_goes_by_its_own_name() -> None:
    assert {name for names in TABLE.values() for name in names} == set(TASKS)
    assert all(task.name == name for name, task in TASKS.items())


def test_the_shortest_spelling_is_read_in_order() -> None:
    stages = curriculum("tps")
    assert [stage.name for stage in stages] == ["token", "phrase", "sentence"]
    assert [tasks(stage) for stage in stages] == list(TABLE.values())


@pytest.mark.parametrize("spelling", ORDERS)
def test_every_order_of_table_4_is_kept(spelling: str) -> None:
    assert "".join(stage.parts[0].initial for stage in curriculum(spelling)) == spelling
    assert all(len(stage.parts) == 1 for stage in curriculum(spelling))


def test_plus_trains_all_parts_in_one_stage() -> None:
    (stage,) = curriculum("t+p+s")
    assert stage.name == "token+phrase+sentence"
    assert [[task.name for task in part.tasks] for part in stage.parts] == list(TABLE.values())


def test_a_mix_has_each_task_once() -> None:
    (stage,) = curriculum("t+p+s")
    assert tasks(stage) == ["mlm", "mrfr", "moc", "ifrs", "titp", "tits", "itm_hs"]


def test_two_parts_can_be_mixed_with_spaces_around_the_plus() -> None:
    (stage,) = curriculum("s + t")
    assert stage.name == "sentence+token"


@pytest.mark.parametrize("spelling", ["tps", "t+p+s"])
def test_dropped_tasks_leave_every_part(spelling: str) -> None:
    parts = [part for stage in curriculum(spelling, drop=("moc", "itm_hs")) for part in stage.parts]
    assert [[task.name for task in part.tasks] for part in parts] == [
        ["mlm", "mrfr", "ifrs"],
        ["mlm", "mrfr", "titp"],
        ["mlm", "mrfr", "tits"],
    ]


def test_dropping_leaves_the_table_as_it_was() -> None:
    curriculum("tps", drop=("mlm",))
    assert tasks(curriculum("t")[0]) == TABLE["token"]


@pytest.mark.parametrize("spelling", ["", "x", "tpx", "tt", "t+t", "t+", "+", "T", "t p s", "tp+s", "token"])
def test_any_other_spelling_is_refused_with_the_initials(spelling: str) -> None:
    assert refusal(spelling) == (
        f"curriculum {spelling!r} is not understood: name each stage once by its initial "
        "(t token, p phrase, s sentence), as in tps, s or t+p+s"
    )


def test_dropping_an_unknown_task_is_refused_with_the_known_ones() -> None:
    assert refusal("tps", ("itm",)) == ("no task is called 'itm'; tasks are mlm, mrfr, moc, ifrs, titp, tits, itm_hs")


def test_dropping_all_tasks_of_a_stage_is_refused() -> None:
    assert "no task for stage phrase" in refusal("tps", tuple(TABLE["phrase"]))


def test_a_stage_follows_its_own_row_of_the_schedule() -> None:
    rows = PRESETS["paper"].schedule
    sizes = [(stage.schedule(rows).epochs, stage.schedule(rows).batch_size) for stage in curriculum("tps")]
    assert sizes == [(10, 64), (20, 128), (20, 128)]


def test_a_mix_takes_the_longest_and_the_widest_row() -> None:
    rows = {
        "token": StageSchedule(epochs=9, batch_size=2),
        "phrase": StageSchedule(epochs=3, batch_size=8),
        "sentence": StageSchedule(epochs=1, batch_size=99),
    }
    (stage,) = curriculum("t+p")
    assert stage.schedule(rows) == StageSchedule(epochs=9, batch_size=8)
