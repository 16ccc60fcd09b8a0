"""Dropout and attention, with less work and memory than torch's on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16
"""Chances are drawn in 65,536ths, four from each random number."""


class Dropout(nn.Module):
    """As nn.Dropout, whose mask on a CPU is as large as the values until the backward pass; here it is of bytes."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """`values` of any shape; in training a share of them zero and the others larger in turn."""
        if not self.training or not self.share:
            return values
        if values.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(values, self.share)
        return apply_dropout(values, dropout_mask(values, self.share), self.share)


def dropout_mask(values: Tensor, share: float) -> Tensor:
    """bool, of the shape of `values`: True for a share of them, by torch's generator."""
    count = values.numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return numbers.view(torch.int16)[:count].view(values.shape) < _steps(share) - STEPS // 2


def _steps(share: float) -> int:
    return min(round(share * STEPS), STEPS - 1)


def apply_dropout(values: Tensor, out: Tensor, share: float) -> Tensor:
    """`values` times 1 / (1 - share), with `share` in whole steps; zero where bool `out`."""
    return (values * (STEPS / (STEPS - _steps(share)))).masked_fill(out, 0.0)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, dropout: float) -> Tensor:
    """Scaled dot-product attention: [B, heads, S, D] from [B, heads, S, D] and [B, heads, M, D]; shares drop out.

    mask: bool, broadcast to [B, heads, S, M]; a query that sees nothing at all gets zeros.
    """
    if query.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    # On a CPU torch's fused kernel knows no dropout, and its backward pass leaves cores idle. Without the kernel torch
    # does as follows, but in fp32 when all else is in bf16, at twice the cost, and with masks of four bytes.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    shares = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    if not dropout:
        seen: Tensor = shares @ value
        return seen.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return apply_dropout(shares, dropout_mask(shares, dropout) | ~mask, dropout) @ value
