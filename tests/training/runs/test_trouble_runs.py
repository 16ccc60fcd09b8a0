"""Runs under faults of real machines end, or continue, with the promised line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_runs import RUN_TIMEOUT, SHORT, TRAIN, alone, saved

from msp_ds.config import read_json
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
LONG = ["--batch-size", "16", "--epochs", "400", "--save-every", "2"]
ENDED_WITHIN = 120
"""Seconds."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ranks_of(launcher: int) -> list[int]:
    """The process ids of a launcher's ranks."""
    found = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(one) for one in found if b"train.py" in Path(f"/proc/{one}/cmdline").read_bytes()]


def awaited(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + RUN_TIMEOUT
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the ranks are found in /proc")
def test_when_a_rank_dies_all_end_within_two_minutes(small_shards: Path, tmp_path: Path) -> None:
    flags = ["--shards", str(small_shards), "--curriculum", "t", *LONG, "--run-dir", str(tmp_path / "run")]
    command = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", TRAIN[1], *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=alone()) as launcher:
        awaited(tmp_path / "run" / "1-token" / "checkpoints" / "step-00000002" / "manifest.json", launcher)
        ranks = ranks_of(launcher.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        began = time.monotonic()
        launcher.communicate(timeout=RUN_TIMEOUT)
    assert launcher.returncode != 0
    assert time.monotonic() - began < ENDED_WITHIN
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def of_node(launcher: str, node: int, *, port: int, hosts: Path) -> list[str]:
    """The command of one of two machines, up to the program's flags."""
    place = ["--node_rank", str(node), "--master_addr", "127.0.0.1", "--master_port", str(port)]
    if launcher == "torchrun":
        return [*TORCHRUN, "--nnodes", "2", "--nproc_per_node", "1", *place, TRAIN[1]]
    deepspeed = Path(sys.executable).with_name("deepspeed")
    if not deepspeed.is_file():
        pytest.skip("the deepspeed launcher is not beside this interpreter")
    hosts.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    return [str(deepspeed), "--hostfile", str(hosts), "--no_ssh", *place, TRAIN[1]]


@pytest.mark.full
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed --no_ssh"])
def test_two_nodes_train_as_two_ranks_do(small_shards: Path, tmp_path: Path, launcher: str) -> None:
    flags = ["--shards", str(small_shards), "--curriculum", "t", *SHORT[:2], "--max-steps", "4", "--save-every", "2"]
    together = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", TRAIN[1], *flags]
    environment = {
        **alone(),
        "OMP_NUM_THREADS": "2",
    }  # the same for every rank: sums have one order
    subprocess.run(
        [*together, "--run-dir", str(tmp_path / "one-node")], env=environment, check=True, timeout=RUN_TIMEOUT
    )
    port = free_port()
    nodes = [
        subprocess.Popen(
            [*of_node(launcher, node, port=port, hosts=tmp_path / "hosts"), *flags, "--run-dir", str(tmp_path / "two")],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for node in range(2)
    ]
    errors = [node.communicate(timeout=RUN_TIMEOUT)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert read_json(tmp_path / "two" / RUN_FILE, what="a run")["world_size"] == 2
    assert saved(tmp_path / "two", "1-token") == saved(tmp_path / "one-node", "1-token")


def launched_apart(folder: Path, shards: Path, *, of_rank: str) -> tuple[int, str]:
    """Two ranks, each with flags that the Python expression `of_rank` makes of its rank: exit code and stderr."""
    flags = ["--shards", str(shards), "--curriculum", "t", *SHORT, "--run-dir", str(folder / "run")]
    script = folder / "start.py"
    script.write_text(
        "import os, sys\nfrom msp_ds.train import main\nrank = int(os.environ['RANK'])\n"
        f"sys.argv[1:] = {flags!r} + {of_rank}\nmain()\n"
    )
    command = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**alone(), "PYTHONPATH": str(Path(TRAIN[1]).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT, env=environment)
    return done.returncode, done.stderr


@pytest.mark.full
def test_ranks_that_were_started_differently_end_before_the_first_step(small_shards: Path, tmp_path: Path) -> None:
    code, errors = launched_apart(tmp_path, small_shards, of_rank="['--seed', str(rank)]")
    assert code != 0
    host = re.escape(socket.gethostname())
    (line,) = re.findall(r"^error: .*", errors, re.MULTILINE)
    assert re.fullmatch(
        rf"error: rank 1 on {host} has config.seed 1, rank 0 on {host} has 0; start every rank with the same flags",
        line,
    )
    assert "exitcode  : 2" in errors
    assert not (tmp_path / "run").exists()


def run_in(environment: dict[str, str], command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        env={**alone(), **environment},
    )


def test_a_port_that_is_in_use_is_named_with_a_fix(small_shards: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [*TRAIN, "--shards", small_shards, "--curriculum", "t", *SHORT, "--run-dir", tmp_path / "run"]
        done = run_in({"MASTER_PORT": port}, command)
    assert done.returncode == 2
    assert f"error: port {port} of this machine is in use, so the ranks cannot meet there; give another" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_needs_no_compiler_and_ignores_a_stale_build_lock(small_shards: Path, tmp_path: Path) -> None:
    extensions, empty = tmp_path / "extensions", tmp_path / "empty"
    lock = extensions / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    empty.mkdir()
    flags = ["--curriculum", "t", "--batch-size", "16", "--max-steps", "2", "--run-dir", tmp_path / "run"]
    bare = {"TORCH_EXTENSIONS_DIR": str(extensions), "PATH": str(empty), "CC": "/none", "CXX": "/none"}
    done = run_in(bare, [*TRAIN, "--shards", small_shards, *flags])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "1-token" / STAGE_FILE).is_file()
    assert [path for path in extensions.rglob("*") if path.is_file()] == [lock]
