"""What `msp-ds verify` says of a set."""

from __future__ import annotations

from pathlib import Path

from msp_ds.preparation.verifying.verification import VerifyReport
from msp_ds.report.verdict import verdict_text


def test_a_sets_name_cannot_make_up_a_line_of_its_own() -> None:
    found = VerifyReport(
        path=Path("a: all is well\nb"),
        is_quick=True,
        num_images=2,
        num_tars=1,
        num_bytes=0,
        seconds=1.0,
        faults=(),
        fix="",
    )
    assert verdict_text(found).startswith("a: all is well\\nb: 2 images in 1 tars;")
