"""Dropout and attention for CPUs, with less work and memory than torch's; other devices use torch's own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16  # probabilities are rounded to 65,536ths: each 64-bit random number serves four values


class Dropout(nn.Module):
    """nn.Dropout with a mask of one byte a value for the backward pass; torch's on a CPU is as large as the values."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """In training, set values to zero with probability p and divide the others by 1 - p."""
        if not self.training or not self.p:
            return values
        if values.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(values, self.p)
        return apply_dropout(values, dropout_mask(values, self.p), self.p)


def dropout_mask(values: Tensor, p: float) -> Tensor:
    """bool, of the shape of `values`: True with probability p, drawn from torch's generator."""
    count = values.numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return numbers.view(torch.int16)[:count].view(values.shape) < _steps(p) - STEPS // 2


def _steps(p: float) -> int:
    return min(round(p * STEPS), STEPS - 1)


def apply_dropout(values: Tensor, dropped: Tensor, p: float) -> Tensor:
    """Return `values` / (1 - p), with p in whole steps; zero where bool `dropped`."""
    return (values * (STEPS / (STEPS - _steps(p)))).masked_fill(dropped, 0.0)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, dropout: float) -> Tensor:
    """Scaled dot-product attention with dropout of the weights: [B, heads, S, D] from [B, heads, M, D] key and value.

    query: [B, heads, S, D]; mask: bool, broadcast to [B, heads, S, M]. A query that may attend to nothing gets zeros.
    """
    if query.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    # torch's fused CPU kernel has no dropout, and its backward pass leaves cores idle. torch's other kernel computes
    # what follows, but in fp32 when all else is in bf16, at twice the cost, and with masks of four bytes.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    if not dropout:
        context: Tensor = weights @ value
        return context.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return apply_dropout(weights, dropout_mask(weights, dropout) | ~mask, dropout) @ value
