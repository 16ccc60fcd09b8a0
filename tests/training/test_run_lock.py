"""A run's folder is in use as long as its process lives, and no longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from msp_ds.training.run_lock import in_use, is_in_use

pytest.importorskip("fcntl")


def test_a_folder_is_in_use_inside_the_block_only(tmp_path: Path) -> None:
    assert is_in_use(tmp_path) is False
    with in_use(tmp_path):
        assert is_in_use(tmp_path) is True
    assert is_in_use(tmp_path) is False


def test_a_killed_process_uses_nothing(tmp_path: Path) -> None:
    program = (
        "import time; from pathlib import Path; from msp_ds.training.run_lock import in_use\n"
        f"with in_use(Path({str(tmp_path)!r})): print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        assert is_in_use(tmp_path) is True
        process.kill()
    assert is_in_use(tmp_path) is False
