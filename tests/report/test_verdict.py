"""The lines of `msp-ds verify`."""

from __future__ import annotations

from pathlib import Path

from msp_ds.preparation.verifying.verification import VerifyReport
from msp_ds.report.verdict import verify_text


def test_the_name_of_a_set_cannot_add_a_line() -> None:
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
    assert verify_text(found).startswith("a: all is well\\nb: 2 images in 1 tars;")
