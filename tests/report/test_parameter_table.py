"""`msp-ds info` prints the published counts, part by part, without making the weights."""

from __future__ import annotations

import pytest
from command_line import run


@pytest.mark.parametrize(
    ("preset", "rows"),
    [
        (
            "paper",
            {"cross-modality layers": "82,698,240", "region pooler": "590,592", "as the paper counts": "84,278,784"},
        ),
        (
            "lxmert",
            {"language layers": "63,790,848", "region layers": "35,439,360", "as the paper counts": "183,508,992"},
        ),
        ("single-stream", {"single-stream layers": "85,054,464", "as the paper counts": "86,635,008"}),
    ],
)
def test_info_prints_the_counts(preset: str, rows: dict[str, str]) -> None:
    shown = run("info", "--preset", preset).stdout.splitlines()
    for part, count in rows.items():
        (row,) = [line for line in shown if part in line]
        assert row.rstrip(" │").endswith(count)


def test_info_leaves_out_what_a_model_does_not_have() -> None:
    shown = run("info", "--preset", "single-stream").stdout
    for part in ("language layers", "cross-modality", "region pooler", "visual [CLS]"):
        assert part not in shown
