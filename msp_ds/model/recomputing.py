"""Activation recomputation: less memory is kept for the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Size, Tensor


@contextmanager
def recomputed(result: Tensor, again: Callable[[], Tensor]) -> Iterator[None]:
    """Keep operations in this context from saving `result` for their backward pass, which calls `again()` instead.

    `again` must return the same numbers and should hold only tensors that the backward pass keeps anyway.
    """
    if torch.compiler.is_compiling():  # the compiler chooses what to recompute
        yield
        return
    # Not `result` itself: the graph keeps `pack` alive, which would keep `result` alive.
    place, kind, count = result.untyped_storage().data_ptr(), result.dtype, result.numel()

    def pack(kept: Tensor) -> Tensor | Size:
        same = kept.dtype == kind and kept.numel() == count and kept.untyped_storage().data_ptr() == place
        return kept.shape if same and kept.is_contiguous() else kept

    def unpack(kept: Tensor | Size) -> Tensor:
        return kept if isinstance(kept, Tensor) else again().view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
