"""Which arithmetic grades are computed in: fp32, or bf16 where the hardware multiplies it natively."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from msp_ds.errors import InputError

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]

_AMPERE = (8, 0)
"""CUDA compute capability of the first GPUs that multiply bf16 in hardware."""


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 natively: a GPU from Ampere on, a CPU with AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public; a torch without it has no AMX for us
    return device.type == "cpu" and asked is not None and bool(asked())


def choose_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """The precision to compute in; bf16 asked of hardware without it is granted with a warning.

    Raises: InputError for another choice than auto, fp32 and bf16.
    """
    if choice not in ("auto", "fp32", "bf16"):
        raise InputError(f"there is no precision {choice!r}; choose auto, fp32 or bf16")
    native = multiplies_bf16(device)
    if choice == "bf16" and not native:
        log.warning("this %s does not multiply bf16 natively: slower than fp32, and less exact", device.type)
    return "bf16" if choice == "bf16" or (choice == "auto" and native) else "fp32"
