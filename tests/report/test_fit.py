"""The prediction for a card, compared with sums by hand."""

from __future__ import annotations

import dataclasses

import pytest
from rich.table import Table

from msp_ds.curriculum import STAGES
from msp_ds.errors import InputError
from msp_ds.presets import get_preset
from msp_ds.report.fit import CONTEXT_BYTES, Fit, fit_table, stage_fit
from msp_ds.training.engine.execution import Execution
from msp_ds.training.memory.cards import CARDS, find_card

FIT = Fit(
    stage="token",
    weights=10,
    batch_size=8,
    num_tokens=64,
    state_bytes=160.0,
    pair_bytes=100.0,
    flops=1e9,
    memory_bytes=CONTEXT_BYTES + 160 + 450,
    pairs_per_second=100.0,
    epochs=3,
)


def test_what_is_needed_and_what_fits() -> None:
    assert FIT.bytes_needed == CONTEXT_BYTES + 160 + 800
    assert FIT.largest_micro_batch == 4
    assert dataclasses.replace(FIT, memory_bytes=100.0).largest_micro_batch == 0
    assert FIT.hours == 3 * 120_000 / 100 / 3600


def test_the_paper_s_model_fits_its_card_at_its_batch_sizes() -> None:
    for part in STAGES:
        fit = stage_fit(part, get_preset("paper"), CARDS["titanx"], Execution(precision="fp16"), batch_size=None)
        assert fit.bytes_needed < 12 * 2**30, part.name


def cells(table: Table, row: str) -> list[str]:
    place = list(table.columns[0].cells).index(row)
    return [str(list(column.cells)[place]) for column in table.columns[1:]]


def test_the_table_names_the_setting_for_a_batch_that_is_too_large() -> None:
    how = Execution(precision="fp16")
    few = fit_table("paper", find_card("4gb"), how, batch_size=128)
    assert all("with micro_batch" in cell for cell in cells(few, "fits"))
    assert cells(fit_table("paper", find_card("2gb"), how), "fits")[1:] == ["no"] * 2
    assert "pairs a second" not in list(few.columns[0].cells), "of a memory alone no peak is known"


def test_a_batch_of_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="--batch-size 0 is not positive"):
        fit_table("paper", CARDS["t4"], Execution(precision="fp16"), batch_size=0)
