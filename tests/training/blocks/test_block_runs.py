"""Two ranks on shards from a server that are larger than the cache: one line of error, and going on on one rank."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from block_site import ROOM, kept_bytes
from file_server import serving

from msp_ds.training.checkpointing.checkpoint import checkpoints, read_manifest
from msp_ds.training.checkpointing.run_folder import STAGE_FILE

pytestmark = pytest.mark.slow

TRAIN = str(Path(__file__).resolve().parents[3] / "msp_ds" / "train.py")
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SMALL = ("model.num_layers=1", "model.hidden_size=16", "model.num_heads=2", "model.intermediate_size=16")
RUN_TIMEOUT = 400.0
"""Seconds to wait for what takes twenty on an idle machine."""


def stderr_of(command: Sequence[object]) -> tuple[int, list[str]]:
    """Exit code and stderr of a command, in an environment without a rank."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in ranks}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=RUN_TIMEOUT, env=environment)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.full
def test_what_one_machine_cannot_fetch_ends_two_ranks_in_one_line_and_one_goes_on(
    twelve_tars: Path, tmp_path: Path
) -> None:
    limit = (kept_bytes(twelve_tars) + ROOM) / 10**9
    where = ["--run-dir", tmp_path / "run", "--cache", tmp_path / "cache", "--cache-limit", f"{limit:.9f}"]
    with serving(twelve_tars) as server:

        def tars() -> list[str]:
            return [one for one in server.requests if "train" in one and ".tar" in one]

        server.cut = lambda path, start: 300 if "train" in path and len(set(tars())) > 7 else None
        flags = ["--shards", server.address, "--curriculum", "s", "--batch-size", 36, "--max-steps", 7]
        settings = [word for setting in SMALL for word in ("--set", setting)]
        code, lines = stderr_of([*LAUNCHER, TRAIN, *flags, *settings, *where])
        assert code != 0
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, "\n".join(lines)
        assert "after step 5, which is saved: http" in errors[0]
        assert errors[0].endswith("; continue with --resume and this --cache-limit")
        assert len([line for line in lines if "shards come while it trains, pairs in 6 blocks" in line]) == 1
        assert len(set(tars()[:7])) == 7, "the second rank must find what the first has fetched"
        saved = checkpoints(tmp_path / "run" / "1-sentence" / "checkpoints")
        assert read_manifest(saved[-1]).state["step"] == 5
        server.cut = lambda path, start: None
        # Neither --cache nor --cache-limit: without the run's own the whole set would be fetched, in another order.
        code, lines = stderr_of([sys.executable, TRAIN, "--resume", *where[:2]])
        assert code == 0, "\n".join(lines)
        assert any("shards come while it trains, pairs in 6 blocks" in line for line in lines)
        assert (tmp_path / "run" / "1-sentence" / STAGE_FILE).is_file()
        assert sum(path.stat().st_size for path in (tmp_path / "cache" / "blobs").iterdir()) <= round(limit * 10**9)
