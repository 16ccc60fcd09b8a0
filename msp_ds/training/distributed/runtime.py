"""The rank, world size and device of a process, with or without a launcher, and the values that ranks exchange."""

import logging
import os
import re
import socket
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from msp_ds.errors import InputError

log = logging.getLogger(__name__)

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(seconds=55)
"""How long a rank waits for another in a collective. A frozen rank then ends the run within two minutes: the launcher
needs 40 s more, 30 of them until it kills a process that ignores SIGTERM. Work of one rank alone, such as a stage's
pictures, must take less; during saves and downloads the ranks exchange signs of life instead."""
COMPILING_TIMEOUT = timedelta(minutes=30)
"""The same where layers are compiled: a rank may compile a new shape for minutes at any step while the others wait."""
MEETING_TIMEOUT = timedelta(minutes=5)
"""How long a rank waits for the others to be started: people start machines one by one."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One process of a run and its means to exchange values with the others; every rank must make the same calls."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def describe(self) -> str:
        """`1 rank on cpu with 2 threads`."""
        on_gpu = self.device.type == "cuda"
        device = torch.cuda.get_device_name(self.device) if on_gpu else f"cpu with {torch.get_num_threads()} threads"
        return f"{self.world_size} rank{'s' if self.world_size > 1 else ''} on {device}"

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum `values` over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, values: torch.Tensor) -> torch.Tensor:
        """Replace `values` by their maximum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def broadcast(self, value: str, *, source: int = 0) -> str:
        """The value of rank `source`, on every rank."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, src=source)
        return values[0]

    def gather(self, value: str) -> list[str]:
        """The value of each rank, on every rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def any_error(self, value: str) -> str:
        """On every rank the value of the last rank whose value is not empty; empty where there is none."""
        number = int(self.all_reduce_max(torch.tensor(self.rank + 1 if value else 0, device=self.device)))
        return self.broadcast(value, source=number - 1) if number else value

    def on_rank_zero(self, action: Callable[[], None]) -> None:
        """Run `action` on rank 0. Its InputError is raised on every rank, so that none waits for one that has ended."""
        self.on_all_ranks(lambda: action() if self.is_first else None)

    def on_all_ranks(self, action: Callable[[], T]) -> T:
        """Run `action` on each rank and return its result. An InputError of one rank is raised on every rank."""
        results, message = [], ""
        try:
            results.append(action())
        except InputError as error:
            if self.world_size == 1:
                raise
            message = str(error)
        if message := self.any_error(message):
            raise InputError(message)
        return results[0]


def start_runtime(environment: MutableMapping[str, str]) -> Runtime:
    """Join the other processes that a launcher started, or start alone; `environment` is os.environ."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in alone.items():
        environment.setdefault(name, value)
    environment.setdefault("MASTER_PORT", str(free_port()))
    on_gpu = torch.cuda.is_available()
    environment.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    try:
        import deepspeed  # reads DS_ACCELERATOR on import
    except ImportError as error:
        raise InputError(f"training needs the package deepspeed ({error}); run: pip install deepspeed") from None

    world_size = int(environment["WORLD_SIZE"])
    device = torch.device("cpu")
    if on_gpu:
        index = gpu_index(int(environment["LOCAL_RANK"]), visible=torch.cuda.device_count())
        environment["LOCAL_RANK"] = str(index)  # DeepSpeed uses it as the index of the device
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    else:
        # init_distributed would build this extension, which nothing uses: the build fails without a compiler or ninja,
        # and hangs for ever on a stale lock.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(num_threads(environment))
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        if not dist.is_initialized():  # this process may have trained before
            _meet("nccl" if on_gpu else "gloo", environment)
        deepspeed.init_distributed(timeout=COLLECTIVE_TIMEOUT, verbose=False, auto_mpi_discovery=False)
    except (RuntimeError, ValueError) as error:
        raise _rendezvous_error(error, environment) from None
    return Runtime(rank=int(environment["RANK"]), world_size=world_size, device=device)


def gpu_index(local_rank: int, *, visible: int) -> int:
    """The index of a rank's GPU among those that its process sees; Slurm may show each task only its own, as 0."""
    if local_rank < visible or visible == 1:
        return min(local_rank, visible - 1)
    raise InputError(
        f"LOCAL_RANK is {local_rank}, but this process sees {visible} GPUs; start {visible} ranks on this machine "
        f"(--nproc_per_node {visible}), or show each rank a GPU of its own (CUDA_VISIBLE_DEVICES)"
    )


def allow_tf32(allowed: bool) -> None:
    """Set whether GPUs may multiply fp32 matrices in TF32, which keeps 10 of the 23 fraction bits of each factor."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _meet(backend: str, environment: Mapping[str, str]) -> None:
    """Wait up to MEETING_TIMEOUT for the other ranks; every later wait has COLLECTIVE_TIMEOUT."""
    if environment["WORLD_SIZE"] != "1":
        log.info("waiting for %s ranks at %s", environment["WORLD_SIZE"], _address(environment))
    store, rank, world_size = next(rendezvous("env://", timeout=MEETING_TIMEOUT))
    store.set_timeout(COLLECTIVE_TIMEOUT)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)


def _address(environment: Mapping[str, str]) -> str:
    return f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"


def ranks_here(environment: Mapping[str, str]) -> int:
    """The number of ranks that a launcher, torchrun or DeepSpeed's, has started on this machine."""
    return int(environment.get("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", "1")))


def num_threads(environment: Mapping[str, str]) -> int:
    """Threads of a rank on a CPU: OMP_NUM_THREADS where the user has set it, else the cores divided by the local ranks.

    A value of 1 under torchrun with several ranks does not count: torchrun sets it where the variable is missing.
    """
    num_ranks = ranks_here(environment)
    wanted = environment.get("OMP_NUM_THREADS", "")
    by_torchrun = wanted == "1" and num_ranks > 1 and "TORCHELASTIC_RUN_ID" in environment
    if wanted.isdecimal() and int(wanted) > 0 and not by_torchrun:
        return int(wanted)
    return max(1, (os.cpu_count() or 1) // num_ranks)


def has_lost_a_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank has ended or no longer answers."""
    signs = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistBackendError) or any(sign in str(error) for sign in signs)


def lost_rank_message(error: RuntimeError) -> str:
    """The first sentence of a lost rank's error, without the position in the library's source."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^\]]*\.(cc|cpp|cu|h):\d+\] *", "", first).partition(". ")[0]


def _rendezvous_error(error: Exception, environment: Mapping[str, str]) -> InputError:
    """The error for ranks that did not find each other."""
    address, ranks = _address(environment), environment["WORLD_SIZE"]
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return InputError(
            f"port {environment['MASTER_PORT']} of this machine is in use, so the ranks cannot meet there; give "
            "another with --master_port N to deepspeed or torchrun, or MASTER_PORT=N"
        )
    if "timed out" in text.lower() or "timeout" in text.lower():
        return InputError(
            f"not all of {ranks} ranks came to {address} within {MEETING_TIMEOUT.total_seconds():.0f} s; start the "
            "same command on every machine, and let the port through their firewalls"
        )
    return InputError(
        f"the {ranks} ranks could not meet at {address} ({text.splitlines()[0] if text else type(error).__name__})"
    )


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
