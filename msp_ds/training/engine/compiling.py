"""torch.compile for the layers of a backbone: fewer and larger kernels on a GPU. It is off by default."""

import logging
import os
import shutil

import torch

from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone

log = logging.getLogger(__name__)

MAX_SHAPES = 32
"""Shapes that a layer is compiled for; with any further shape it runs in eager mode. Texts are padded to a few lengths
and lists of target positions to a few counts."""


def require_compiler() -> None:
    """Raise InputError where torch.compile needs a C++ compiler and there is none: on a machine without a GPU."""
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise InputError(
            f"compiling for a CPU needs a C++ compiler, and there is no {compiler}; leave out --compile, install one, "
            "or name it in CXX"
        )


def compile_layers(backbone: Backbone, device: torch.device, *, backend: str = "inductor") -> None:
    """Compile each layer in place, once for each shape of its input; parameters keep their names."""
    if device.type == "cpu":
        log.info("layers are compiled, which takes minutes on a CPU and rarely makes training faster there")
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = MAX_SHAPES
    for layer in (*backbone.language_layers, *backbone.region_layers, *backbone.layers):
        layer.compile(dynamic=False, backend=backend)
