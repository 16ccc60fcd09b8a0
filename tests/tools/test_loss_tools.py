"""The programs that compare losses: with the slow references, between commits, between runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def left_by(tool: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_table_of_references_has_a_row_a_loss() -> None:
    done = left_by("loss_references.py", "--batches", 12)
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert rows == ["mlm", "mrfr", "moc", "ifrs", "titp", "tits", "itm_hs"]


def test_a_difference_above_the_tolerance_is_an_error() -> None:
    assert left_by("loss_references.py", "--batches", 6, "--tolerance", 0).returncode == 1
