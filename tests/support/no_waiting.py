"""Operations for whose result a GPU would have to be waited for, found on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"nonzero", "_local_scalar_dense", "masked_select", "_unique2", "unique_dim", "bincount", "is_nonzero"}


class NoWaiting(TorchDispatchMode):
    """In here such operations raise."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        refuse_to_wait(func, args)
        return func(*args, **(kwargs or {}))


def refuse_to_wait(func: Any, args: Any) -> None:
    """Raises at an operation whose result's size, or value, the host has to know."""
    name = func.overloadpacket.__name__
    if name in WAITING or (name in {"index", "index_put", "index_put_"} and _by_mask(args[1])):
        raise AssertionError(f"{func} waits for the device")


def _by_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in indices)
