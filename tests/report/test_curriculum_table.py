"""The table of stages knows all stages and benchmarks."""

from __future__ import annotations

import pytest

from msp_ds.curriculum import BENCHMARKS, STAGES, curriculum
from msp_ds.presets import PRESETS
from msp_ds.report.curriculum import TEXTS, stage_table


def test_every_stage_and_benchmark_has_its_text() -> None:
    names = {part.name for part in STAGES} | set(BENCHMARKS)
    assert set(TEXTS) == names


@pytest.mark.parametrize(("name", "text"), [("vqa", "questions"), ("nlvr2", "statements about two images")])
def test_a_benchmark_is_shown_as_a_stage_is(name: str, text: str) -> None:
    table = stage_table(curriculum(name), PRESETS["paper"].schedule, preset="paper")
    row = [next(iter(column.cells)) for column in table.columns]
    assert row == [name, name, text, {"vqa": "6 x 32", "nlvr2": "8 x 32"}[name]]
