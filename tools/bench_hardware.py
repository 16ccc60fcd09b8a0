"""What a benchmark of training ran on, for its table and its JSON."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from msp_ds.evaluation.precision import multiplies_bf16


def hardware(device: torch.device) -> dict[str, Any]:
    """What it ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else (names or ["a CPU"])[0],
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "amx": multiplies_bf16(torch.device("cpu")),
        "torch": torch.__version__,
        **{name: known for name in ("deepspeed", "transformers") if (known := _version(name))},
        "python": sys.version.split()[0],
    }


def _version(name: str) -> str:
    """Of a package; empty where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
