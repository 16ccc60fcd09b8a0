"""A process finds its threads, its GPU and the other ranks, or a message says why not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from msp_ds.errors import InputError
from msp_ds.training.distributed.runtime import (
    _rendezvous_error,
    allow_tf32,
    gpu_index,
    has_lost_a_rank,
    lost_rank_message,
    num_threads,
    ranks_here,
)

CORES = os.cpu_count() or 1
ADDRESS = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, CORES),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1", "LOCAL_SIZE": "2"}, 1),
        ({"LOCAL_WORLD_SIZE": "2"}, max(1, CORES // 2)),
        ({"LOCAL_WORLD_SIZE": str(2 * CORES)}, 1),
        # torchrun's own 1, and a value that the user has set
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, max(1, CORES // 2)),
        ({"OMP_NUM_THREADS": "5", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, 5),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}, 1),
        ({"OMP_NUM_THREADS": "many"}, CORES),
        ({"OMP_NUM_THREADS": "0"}, CORES),
    ],
)
def test_the_users_number_of_threads_counts_and_else_the_cores_are_divided(
    environment: dict[str, str], threads: int
) -> None:
    assert num_threads(environment) == threads


@pytest.mark.parametrize(("local_rank", "visible", "index"), [(0, 1, 0), (3, 4, 3), (3, 1, 0)])
def test_a_rank_takes_its_gpu_or_the_only_one_that_it_sees(local_rank: int, visible: int, index: int) -> None:
    assert gpu_index(local_rank, visible=visible) == index


def test_a_rank_beyond_the_gpus_that_it_sees_is_refused_with_a_fix() -> None:
    with pytest.raises(InputError, match=r"LOCAL_RANK is 2, but this process sees 2 GPUs; .*--nproc_per_node 2\), or "):
        gpu_index(2, visible=2)


def test_tf32_is_switched_for_both_libraries() -> None:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    for allowed in (True, False):  # the last one leaves it off
        allow_tf32(allowed)
        assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]


def test_the_number_of_local_ranks_is_read_from_both_launchers() -> None:
    assert [ranks_here(environment) for environment in ({}, {"LOCAL_WORLD_SIZE": "2"}, {"LOCAL_SIZE": "4"})] == [
        1,
        2,
        4,
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("The server socket has failed to listen (errno: 98 EADDRINUSE)", "port 29500 of this machine is in use, "),
        ("Address already in use", "port 29500 of this machine is in use, "),
        ("Timed out after 101 seconds waiting for clients", "not all of 4 ranks came to 10.0.0.1:29500 within "),
        ("no route\nto host", "the 4 ranks could not meet at 10.0.0.1:29500 (no route)"),
    ],
)
def test_ranks_that_cannot_meet_get_one_line(error: str, message: str) -> None:
    assert str(_rendezvous_error(RuntimeError(error), ADDRESS)).startswith(message)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        ("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 55000ms for recv operation to complete", True),
        ("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242", True),
        ("Connection reset by peer", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_the_error_of_a_lost_rank_is_recognised(error: str, lost: bool) -> None:
    assert has_lost_a_rank(RuntimeError(error)) == lost


def test_the_message_of_a_lost_rank_names_no_source_line() -> None:
    error = "[/a/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 55000ms for recv operation to complete\nat"
    assert lost_rank_message(RuntimeError(error)) == "Timed out waiting 55000ms for recv operation to complete"
    reset = "Read error [127.0.0.1]:53987: Connection reset by peer. This is typically caused by a remote worker. GLHF!"
    assert lost_rank_message(RuntimeError(reset)) == "Read error [127.0.0.1]:53987: Connection reset by peer"
    assert lost_rank_message(RuntimeError("[1] is no source")) == "[1] is no source"


# A collective times out after two seconds here, but a rank may be started later than that.
LATE = """
import os, time
from datetime import timedelta
from msp_ds.training.distributed import runtime
runtime.COLLECTIVE_TIMEOUT = timedelta(seconds=2)
time.sleep(8 * int(os.environ["RANK"]))
print(len(runtime.start_runtime(os.environ).gather("here")))
"""


@pytest.mark.full
@pytest.mark.slow
def test_a_rank_that_is_started_later_is_waited_for() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", LATE],
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    assert [rank.communicate(timeout=180)[0].strip() for rank in ranks] == ["2", "2"]
