"""The mean of the ranks' gradients at ZeRO stage 0, reduced while the backward pass still runs.

DeepSpeed would wait for the last gradient and copy all of them into one message and back: on a CPU the copies take
twice the time of the message, and on every device the reduction would not overlap with the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

SMALL = 2**15
"""Elements below which a gradient is not sent alone: such biases and norms are sent together at the end."""


class GradientAverage:
    """Replaces the gradients of a module in place by their means over the ranks of a group."""

    def __init__(self, module: nn.Module, group: Any, *, ends_step: Callable[[], bool]) -> None:
        """ends_step: whether the current backward pass is the last before the optimiser's step."""
        self._group, self._num_ranks = group, dist.get_world_size(group)
        self._ends_step = ends_step
        # The gradients of the last layers are ready first.
        weights = [weight for weight in module.parameters() if weight.requires_grad and weight.numel()][::-1]
        self._large = [weight for weight in weights if weight.numel() >= SMALL]
        self._small = [weight for weight in weights if weight.numel() < SMALL]
        self._weights = weights
        self._all_present = torch.ones(len(weights), device=weights[0].device)
        self._ready: set[nn.Parameter] = set()
        self._num_sent = 0
        self._pending: list[Any] = []
        self._hooks: list[Any] = [
            weight.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]
            for weight in self._large
        ]

    def _on_gradient(self, weight: Tensor) -> None:
        """Send the large gradients that are ready, in the same order on all ranks."""
        if not self._ends_step():
            return
        self._ready.add(weight)  # type: ignore[arg-type]
        while self._num_sent < len(self._large) and self._large[self._num_sent] in self._ready:
            self._send(_gradient(self._large[self._num_sent]))
            self._num_sent += 1

    def _send(self, gradient: Tensor) -> None:
        gradient.div_(self._num_ranks)
        self._pending.append(dist.all_reduce(gradient, group=self._group, async_op=True))

    def finish(self) -> None:
        """Send the remaining gradients and wait for all of them; every rank must call it.

        A gradient that one rank lacks counts as zero. A gradient that all ranks lack stays None, as with one rank: with
        zeros the optimiser would apply weight decay to a weight that no loss depends on.
        """
        missing = [weight.grad is None for weight in self._weights]
        present = self._all_present.new_tensor([not one for one in missing]) if any(missing) else self._all_present
        for weight in self._large[self._num_sent :]:
            self._send(_gradient(weight))
        gradients = [_gradient(weight) for weight in self._small]
        together = torch.cat([*(gradient.reshape(-1) for gradient in gradients), present])
        self._send(together)
        for message in self._pending:
            message.wait()
        *means, ratios = torch.split(together, [*(gradient.numel() for gradient in gradients), len(present)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        if any(missing):  # only then does tolist() wait for a GPU
            for weight, ratio in zip(self._weights, ratios.tolist(), strict=True):
                weight.grad = weight.grad if ratio else None
        self._ready, self._num_sent, self._pending = set(), 0, []

    def close(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()


def _gradient(weight: nn.Parameter) -> Tensor:
    """The gradient of a weight; zeros where this rank has none, since another rank may have one."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
