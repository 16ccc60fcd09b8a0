"""Where a process stands: its rank, how many there are, its device. With or without a launcher."""

from __future__ import annotations

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
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from msp_ds.errors import InputError

log = logging.getLogger(__name__)

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(seconds=55)
"""A rank that waits longer than this for another gives up, so that a frozen one ends the run within two minutes: the
launcher needs 40 s more, 30 of them for a frozen process to heed SIGTERM. A machine that is slow but healthy has as
long for what one rank does alone, as a stage's pictures; saves and shards that are fetched are waited for in turns."""
COMPILING_TIMEOUT = timedelta(minutes=30)
"""The same where layers are compiled: a rank that meets a new shape compiles for minutes, at any step, while the others
wait for its gradients."""
MEETING_TIMEOUT = timedelta(minutes=5)
"""A rank that waits longer than this for the others to be started gives up: people start machines one by one."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One process of a run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def describe(self) -> str:
        """`1 rank on cpu with 2 threads`."""
        place = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        threads = "" if self.device.type == "cuda" else f" with {torch.get_num_threads()} threads"
        return f"{self.world_size} rank{'s' if self.world_size > 1 else ''} on {place}{threads}"

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of `values` over all ranks, in place; every rank must call it."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, values: torch.Tensor) -> torch.Tensor:
        """The all_reduce_max of `values` over all ranks, in place; every rank must call it."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def broadcast(self, value: str) -> str:
        """Rank 0's value, on every rank."""
        said = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(said, src=0)
        return said[0]

    def gather(self, value: str) -> list[str]:
        """The value of each rank, on every rank."""
        said = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(said, value)
        return said

    def any_error(self, value: str) -> str:
        """On every rank the value of the last rank whose value is not empty; empty where none has one."""
        speaker = int(self.all_reduce_max(torch.tensor(self.rank + 1 if value else 0, device=self.device)))
        said = [value]
        if speaker and self.world_size > 1:
            dist.broadcast_object_list(said, src=speaker - 1)
        return said[0]

    def on_rank_zero(self, action: Callable[[], None]) -> None:
        """Rank 0's `action`; an InputError of it is every rank's, so that none waits for one that has left."""
        said = ""
        if self.is_first:
            try:
                action()
            except InputError as error:
                said = str(error)
        if said := self.broadcast(said):
            raise InputError(said)

    def on_all_ranks(self, action: Callable[[], T]) -> T:
        """What `action` gives on each rank; an InputError of one is every rank's."""
        done, said = [], ""
        try:
            done.append(action())
        except InputError as error:
            if self.world_size == 1:
                raise
            said = str(error)
        if said := self.any_error(said):
            raise InputError(said)
        return done[0]


def start_runtime(environment: MutableMapping[str, str]) -> Runtime:
    """Joins the other processes that a launcher started, or starts alone; `environment` is os.environ."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in alone.items():
        environment.setdefault(name, value)
    environment.setdefault("MASTER_PORT", str(free_port()))
    on_gpu = torch.cuda.is_available()
    environment.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    try:
        import deepspeed  # reads DS_ACCELERATOR when imported
    except ImportError as error:
        raise InputError(f"training needs the package deepspeed ({error}); run: pip install deepspeed") from None

    world_size = int(environment["WORLD_SIZE"])
    device = torch.device("cpu")
    if on_gpu:
        index = gpu_index(int(environment["LOCAL_RANK"]), visible=torch.cuda.device_count())
        environment["LOCAL_RANK"] = str(index)  # DeepSpeed takes it for the number of the device
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    else:
        # Built by every init_distributed on a CPU, used by nothing here: without a compiler or ninja it fails, and a
        # stale lock of its build hangs for ever.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(num_threads(environment))
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        if not dist.is_initialized():  # else this process has trained before
            _meet("nccl" if on_gpu else "gloo", environment)
        deepspeed.init_distributed(timeout=COLLECTIVE_TIMEOUT, verbose=False, auto_mpi_discovery=False)
    except (RuntimeError, ValueError) as error:
        raise _meeting_fault(error, environment) from None
    return Runtime(rank=int(environment["RANK"]), world_size=world_size, device=device)


def gpu_index(local_rank: int, *, visible: int) -> int:
    """The GPU of a rank, of those that its process sees. Slurm may show each task its own alone, as number 0."""
    if local_rank < visible or visible == 1:
        return min(local_rank, visible - 1)
    raise InputError(
        f"LOCAL_RANK is {local_rank}, but this process sees {visible} GPUs; start {visible} ranks on this machine "
        f"(--nproc_per_node {visible}), or show each rank a GPU of its own (CUDA_VISIBLE_DEVICES)"
    )


def allow_tf32(allowed: bool) -> None:
    """Whether GPUs may multiply fp32 matrices in TF32, which keeps 10 of 23 bits of each factor's fraction."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def set_patience(patience: timedelta, *groups: dist.ProcessGroup) -> None:
    """Sets how long a rank waits for another in groups of ranks."""
    for group in groups:
        distributed_c10d._set_pg_timeout(patience, group)


def _meet(backend: str, environment: Mapping[str, str]) -> None:
    """Finds the other ranks: long enough for people, and from then on nobody waits as long for anything."""
    if environment["WORLD_SIZE"] != "1":
        log.info("waiting for %s ranks at %s", environment["WORLD_SIZE"], _place(environment))
    store, rank, world_size = next(rendezvous("env://", timeout=MEETING_TIMEOUT))
    store.set_timeout(COLLECTIVE_TIMEOUT)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)


def _place(environment: Mapping[str, str]) -> str:
    return f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"


def ranks_here(environment: Mapping[str, str]) -> int:
    """How many ranks a launcher has started on this machine: torchrun says so, or DeepSpeed's."""
    return int(environment.get("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", "1")))


def num_threads(environment: Mapping[str, str]) -> int:
    """Threads of a rank on a CPU: OMP_NUM_THREADS where a person has set it, else its share of the cores.

    torchrun sets it to 1 for each of several ranks unless it is set; that 1 counts as torchrun's.
    """
    neighbours = ranks_here(environment)
    wanted = environment.get("OMP_NUM_THREADS", "")
    by_torchrun = wanted == "1" and neighbours > 1 and "TORCHELASTIC_RUN_ID" in environment
    if wanted.isdecimal() and int(wanted) > 0 and not by_torchrun:
        return int(wanted)
    return max(1, (os.cpu_count() or 1) // neighbours)


def has_lost_a_rank(error: RuntimeError) -> bool:
    """Whether a collective failed since another rank has ended or no longer answers."""
    signs = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistBackendError) or any(sign in str(error) for sign in signs)


def loss_told(error: RuntimeError) -> str:
    """What a lost rank's error says first: without a place in the library's source, and its advice to look further."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^\]]*\.(cc|cpp|cu|h):\d+\] *", "", first).partition(". ")[0]


def _meeting_fault(error: Exception, environment: Mapping[str, str]) -> InputError:
    """Why the ranks did not meet, in one line."""
    place, ranks = _place(environment), environment["WORLD_SIZE"]
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return InputError(
            f"port {environment['MASTER_PORT']} of this machine is in use, so the ranks cannot meet there; give "
            "another with --master_port N to deepspeed or torchrun, or MASTER_PORT=N"
        )
    if "timed out" in text.lower() or "timeout" in text.lower():
        return InputError(
            f"not all of {ranks} ranks came to {place} within {MEETING_TIMEOUT.total_seconds():.0f} s; start the "
            "same command on every machine, and let the port through their firewalls"
        )
    return InputError(
        f"the {ranks} ranks could not meet at {place} ({text.splitlines()[0] if text else type(error).__name__})"
    )


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
