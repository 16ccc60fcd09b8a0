"""Every tool answers any size that its help allows, and refuses the others in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.command_line import at_least

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench/start.py", "--images", "51"], "argument --images: '51' is not a whole number from 52 on"),
        (["bench/write.py", "--images", "0"], "argument --images: '0' is not a whole number from 1 on"),
        (
            ["check/rehearse_full_size.py", "--fraction", "nan"],
            "error: --fraction nan is 0 images, too few for a batch",
        ),
        (
            ["check/rehearse_full_size.py", "--fraction", "0.0002"],
            "error: --fraction 0.0002 is 25 images, too few for a batch",
        ),
    ],
)
def test_a_size_that_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, words: list[str], message: str
) -> None:
    command = [sys.executable, str(ROOT / "tools" / words[0]), *words[1:], "--folder", str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert message in ran.stderr.splitlines()[-1]
    assert ran.returncode == 2
    assert not (tmp_path / "out").exists()


def test_the_smallest_size_is_taken() -> None:
    assert at_least(52)("52") == 52
