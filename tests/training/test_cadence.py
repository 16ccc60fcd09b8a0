"""A stage validates at the end of each epoch and at its own end, and saves nothing that it has not reported."""

from __future__ import annotations

from msp_ds.training.cadence import Cadence

CADENCE = Cadence(num_steps=11, batches_per_epoch=4, save_every=3, report_every=5)
STEPS = range(1, 12)


def test_a_stage_reports_validates_and_saves_after_these_steps() -> None:
    assert [done for done in STEPS if CADENCE.ends_epoch(done)] == [4, 8, 11]
    assert [done for done in STEPS if CADENCE.saves(done)] == [3, 4, 6, 8, 9, 11]
    assert [done for done in STEPS if CADENCE.reports(done)] == [3, 4, 5, 6, 8, 9, 10, 11]
