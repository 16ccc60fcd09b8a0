"""Forgetting what is cheap to compute again, so that less memory waits for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Size, Tensor


@contextmanager
def recomputed(result: Tensor, again: Callable[[], Tensor]) -> Iterator[None]:
    """Operations in here do not keep `result` for their backward pass; `again()` gives it a second time instead.

    It must give the same numbers, and should hold on to nothing that the backward pass does not keep anyway.
    """
    if torch.compiler.is_compiling():  # which makes such choices itself
        yield
        return
    # Not `result` itself: the graph holds on to `pack`.
    place, kind, count = result.untyped_storage().data_ptr(), result.dtype, result.numel()

    def pack(kept: Tensor) -> Tensor | Size:
        same = kept.dtype == kind and kept.numel() == count and kept.untyped_storage().data_ptr() == place
        return kept.shape if same and kept.is_contiguous() else kept

    def unpack(kept: Tensor | Size) -> Tensor:
        return kept if isinstance(kept, Tensor) else again().view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
