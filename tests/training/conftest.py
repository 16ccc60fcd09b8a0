"""A tiny model, and this process as the only rank of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from msp_ds.training.distributed.runtime import Runtime, start_runtime


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    """One rank; the process is left as it was found."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    started = start_runtime(os.environ)
    del os.environ["MASTER_PORT"]  # processes that tests start cannot meet there too
    yield started
    dist.destroy_process_group()
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)
