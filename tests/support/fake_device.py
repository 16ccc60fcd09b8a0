"""A device that holds no values: what needs one, or mixes its tensors with the CPU's, raises as it would on a GPU.

DEVICE is torch's `meta`: fake CUDA tensors need a build with CUDA. Autocast, which `meta` does not have, is imitated by
the rules of CUDA's.
"""

from __future__ import annotations

from typing import Any

import torch
from no_waiting import refuse_to_wait
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")


class OnDevice(TorchDispatchMode):
    """Raises at operations that wait for the device, or whose operands lie in two places."""

    def __init__(self, *, reads: bool = False) -> None:
        """reads: whether results may be copied to the host, which gets zeros."""
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if len({one.device for one in tensors if one.dim()}) > 1:  # single numbers may come from anywhere
            raise AssertionError(f"{func} mixes tensors of the CPU and of the device")
        if any(one.device == DEVICE for one in tensors):
            refuse_to_wait(func, args)
            if self.reads and kwargs.get("device") == torch.device("cpu"):
                return torch.zeros(tensors[0].shape, dtype=tensors[0].dtype)
        return func(*args, **kwargs)


_HALF = {F.linear, F.scaled_dot_product_attention, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}
_FULL = {
    *(F.layer_norm, F.softplus, F.cross_entropy, F.smooth_l1_loss, F.mse_loss, F.binary_cross_entropy_with_logits),
    *(Tensor.softmax, Tensor.sum, Tensor.cumsum, Tensor.norm, Tensor.exp, Tensor.prod),
}


class Autocast(TorchFunctionMode):
    """CUDA's autocast of the functions that occur here."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = self.kind if func in _HALF else torch.float32 if func in _FULL else None
        if kind is not None:
            args, kwargs = (
                [_cast(one, kind) for one in args],
                {k: _cast(one, kind) for k, one in (kwargs or {}).items()},
            )
        return func(*args, **(kwargs or {}))


def _cast(value: Any, kind: torch.dtype) -> Any:
    return value.to(kind) if isinstance(value, Tensor) and value.dtype.is_floating_point else value
