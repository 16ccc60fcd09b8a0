"""How a command's process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
import atexit, sys
import torch.distributed as dist
from msp_ds.terminal import run_command

def command():
    rank, ranks, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=ranks)
    dist.barrier()
    print("done", end=" ")
    raise SystemExit(3)

atexit.register(print, "torn down", end="")
run_command(command)
"""


@pytest.mark.parametrize(("num_ranks", "said"), [(1, "done torn down"), (2, "done ")])
def test_one_of_several_ranks_ends_without_the_interpreters_tear_down(
    tmp_path: Path, num_ranks: int, said: str
) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(num_ranks), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    assert [(rank.communicate(timeout=180)[0], rank.returncode) for rank in ranks] == [(said, 3)] * num_ranks
