"""The programs that measure and rehearse the writer, on a few images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


def left_by(tool: str, name: str, *flags: str, folder: Path) -> Any:
    """The JSON file that a tool leaves in its folder."""
    command = [sys.executable, str(ROOT / "tools" / tool), "--folder", str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / name).read_text())


@pytest.mark.full
def test_the_write_benchmark_keeps_the_disk_ratio(tmp_path: Path) -> None:
    flags = ("--images", "40", "--jobs", "1", "3")
    results = left_by("bench/write.py", "bench_write.json", *flags, folder=tmp_path)
    assert [(line["jobs"], line["num_images"]) for line in results] == [(1, 40), (3, 40)]
    assert all(line["set_bytes"] < 0.40 * line["tsv_bytes"] for line in results)
    assert not (tmp_path / "regions.tsv").exists()


@pytest.mark.full
def test_the_rehearsal_proves_that_each_pair_comes_once(tmp_path: Path) -> None:
    epoch = left_by("check/rehearse_full_size.py", "rehearsal.json", "--fraction", "0.001", folder=tmp_path)["counts"]
    # 123 images, each among the 332 that have six captions.
    assert epoch["num_pairs"] == 738 == epoch["num_read"] + epoch["num_waiting"]
    assert (epoch["num_read"], epoch["num_repeated"]) == (5 * 128, 0)
    assert 0 < epoch["num_swapped"] < epoch["num_read"]
    assert not (tmp_path / "sentence").exists()
