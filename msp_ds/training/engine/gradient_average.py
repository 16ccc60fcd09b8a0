"""The mean of the ranks' gradients without ZeRO, on its way while the backward pass goes on.

DeepSpeed would wait for the last gradient, copy all of them into one message and back: on a CPU the copies take twice
the time of the message, and everywhere nothing is computed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

SMALL = 2**15
"""Elements below which a gradient is no message of its own; such biases and norms travel together at the end."""


class GradientAverage:
    """Replaces the gradients of a module, each in its place, by their means over the ranks of a group."""

    def __init__(self, module: nn.Module, group: Any, *, ends_step: Callable[[], bool]) -> None:
        """ends_step: whether the backward pass that is under way is the last before the optimiser's step."""
        self._group, self._ranks = group, dist.get_world_size(group)
        self._ends_step = ends_step
        # The last layers' gradients come first.
        weights = [weight for weight in module.parameters() if weight.requires_grad and weight.numel()][::-1]
        self._large = [weight for weight in weights if weight.numel() >= SMALL]
        self._small = [weight for weight in weights if weight.numel() < SMALL]
        self._weights = weights
        self._all_there = torch.ones(len(weights), device=weights[0].device)
        self._ready: set[nn.Parameter] = set()
        self._num_sent = 0
        self._under_way: list[Any] = []
        self._hooks: list[Any] = [
            weight.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]
            for weight in self._large
        ]

    def _note(self, weight: Tensor) -> None:
        """A gradient is complete. Messages leave in one order on all ranks, whatever order the gradients come in."""
        if not self._ends_step():
            return
        self._ready.add(weight)  # type: ignore[arg-type]
        while self._num_sent < len(self._large) and self._large[self._num_sent] in self._ready:
            self._send(_gradient(self._large[self._num_sent]))
            self._num_sent += 1

    def _send(self, gradient: Tensor) -> None:
        gradient.div_(self._ranks)
        self._under_way.append(dist.all_reduce(gradient, group=self._group, async_op=True))

    def finish(self) -> None:
        """Sends what is left and waits for all; every rank must call it.

        A gradient that a rank lacks counts as zero. One that all lack stays missing, as on one rank: with a gradient of
        zeros the optimiser would let a weight decay that no loss reads.
        """
        lacking = [weight.grad is None for weight in self._weights]
        is_there = self._all_there.new_tensor([not one for one in lacking]) if any(lacking) else self._all_there
        for weight in self._large[self._num_sent :]:
            self._send(_gradient(weight))
        gradients = [_gradient(weight) for weight in self._small]
        together = torch.cat([*(gradient.reshape(-1) for gradient in gradients), is_there])
        self._send(together)
        for message in self._under_way:
            message.wait()
        *means, shares = torch.split(together, [*(gradient.numel() for gradient in gradients), len(is_there)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        if any(lacking):  # only then a GPU is waited for
            for weight, share in zip(self._weights, shares.tolist(), strict=True):
                weight.grad = weight.grad if share else None
        self._ready, self._num_sent, self._under_way = set(), 0, []

    def close(self) -> None:
        """Leaves the module alone."""
        for hook in self._hooks:
            hook.remove()


def _gradient(weight: nn.Parameter) -> Tensor:
    """Of a weight; zeros where this rank has none, since another may have one."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
