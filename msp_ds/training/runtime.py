"""Where a process stands: its rank, how many there are, its device. With or without a launcher."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from msp_ds.errors import InputError

COLLECTIVE_TIMEOUT = timedelta(seconds=100)
"""A rank that waits longer than this for another gives up, so that a dead one ends the run within two minutes."""


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

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """The largest of `values` over all ranks, in place; every rank must call it."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def first_says(self, value: str) -> str:
        """Rank 0's value, on every rank."""
        said = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(said, src=0)
        return said[0]

    def any_says(self, value: str) -> str:
        """On every rank the value of the last rank whose value is not empty; empty where none has one."""
        speaker = int(self.largest(torch.tensor(self.rank + 1 if value else 0, device=self.device)))
        said = [value]
        if speaker and self.world_size > 1:
            dist.broadcast_object_list(said, src=speaker - 1)
        return said[0]

    def first_does(self, action: Callable[[], None]) -> None:
        """Rank 0's `action`; an InputError of it is every rank's, so that none waits for one that has left."""
        said = ""
        if self.is_first:
            try:
                action()
            except InputError as error:
                said = str(error)
        if said := self.first_says(said):
            raise InputError(said)

    def wait_for_all(self) -> None:
        """Returns when every rank has come here."""
        if self.world_size > 1:
            dist.barrier()


def start_runtime(environment: MutableMapping[str, str]) -> Runtime:
    """Joins the other processes that a launcher started, or starts alone; `environment` is os.environ."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in alone.items():
        environment.setdefault(name, value)
    environment.setdefault("MASTER_PORT", str(_free_port()))
    on_gpu = torch.cuda.is_available()
    environment.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    import deepspeed  # reads DS_ACCELERATOR when imported

    local_rank, world_size = int(environment["LOCAL_RANK"]), int(environment["WORLD_SIZE"])
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        # Built by every init_distributed on a CPU, used by nothing here, and a stale lock of its build hangs for ever.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        neighbours = int(environment.get("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", "1")))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // neighbours))
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(
        dist_backend="nccl" if on_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT, verbose=False, auto_mpi_discovery=False
    )
    return Runtime(rank=int(environment["RANK"]), world_size=world_size, device=device)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
