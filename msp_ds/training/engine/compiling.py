"""torch.compile of a backbone's layers: fewer and larger kernels on a GPU, after a minute's wait; off by default."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone

log = logging.getLogger(__name__)

MOST_SHAPES = 32
"""Texts are padded to a few lengths, lists of asked places to a few rooms; beyond so many layers run as they are."""


def require_compiler() -> None:
    """Raises InputError on a machine without a GPU that lacks the C++ compiler which compiling takes there."""
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise InputError(
            f"compiling for a CPU needs a C++ compiler, and there is no {compiler}; leave out --compile, install one, "
            "or name it in CXX"
        )


def compile_layers(backbone: Backbone, device: torch.device, *, backend: str = "inductor") -> None:
    """Compiles each layer for the shapes that training meets; weights and their names stay where they are."""
    if device.type == "cpu":
        log.info("layers are compiled, which takes minutes on a CPU and does not pay there")
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = MOST_SHAPES
    for layer in (*backbone.language_layers, *backbone.region_layers, *backbone.layers):
        layer.compile(dynamic=False, backend=backend)


def compiled_graphs() -> int:
    """How many graphs this process has compiled so far: it stops growing when every shape has come by."""
    import torch._dynamo

    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@contextmanager
def as_written() -> Iterator[None]:
    """In here layers run as they are: batches of other sizes, as validation has, would each be compiled again."""
    with torch.compiler.set_stance("force_eager"):
        yield
