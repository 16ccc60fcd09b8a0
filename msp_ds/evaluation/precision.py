"""Precision of the scores: fp32, or bf16 on request; the machine never decides it."""

import logging
from typing import Literal

import torch

from msp_ds.training.engine.execution import NATIVE_BF16

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 natively: a GPU from Ampere on, a CPU with AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= NATIVE_BF16
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public; a torch without it has no AMX for us
    return device.type == "cpu" and has_amx is not None and bool(has_amx())


def warn_if_slow(precision: Precision, device: torch.device) -> None:
    """Log a warning for bf16 on a device that does not multiply it natively."""
    if precision == "bf16" and not multiplies_bf16(device):
        log.warning(
            "this %s does not multiply bf16 natively: bf16 is slower than fp32 here, and less exact", device.type
        )
