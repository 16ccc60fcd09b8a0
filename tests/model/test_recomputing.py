"""What is recomputed is not kept, and gradients stay as they were, to the last bit."""

from __future__ import annotations

import torch
from tiny import CONFIG, rng
from torch import Tensor
from torch.nn import functional as F

from msp_ds.model.layers import FeedForward
from msp_ds.model.recomputing import recomputed
from tools.bench.common.cost import held_after


def test_the_result_is_computed_again_for_the_backward_pass_and_not_before() -> None:
    states, weight, calls = torch.randn(3, 4, generator=rng(1)), torch.randn(4, 2, requires_grad=True), []

    def again() -> Tensor:
        calls.append(True)
        return states.exp()

    activated = states.exp()
    with recomputed(activated, again):
        product = activated @ weight
    assert not calls
    product.sum().backward()
    assert calls == [True]
    assert torch.equal(weight.grad, states.exp().T @ torch.ones(3, 2))


def test_other_tensors_are_kept() -> None:
    one, other = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    with recomputed(torch.rand(3), lambda: torch.full((3,), torch.nan)):
        product = one * other
    product.sum().backward()
    assert torch.equal(one.grad, other.detach())
    assert torch.equal(other.grad, one.detach())


def plain(block: FeedForward, states: Tensor) -> Tensor:
    return block.norm(states + block.narrow(F.gelu(block.widen(states))))


def test_a_feed_forward_block_keeps_its_wide_states_once() -> None:
    block, states = FeedForward(CONFIG).eval(), torch.randn(2, 5, CONFIG.hidden_size, generator=rng(2))
    kept, gradients = [], []
    for way in (plain, FeedForward.forward):
        loss, num_bytes = held_after(lambda way=way: way(block, states).square().sum())
        kept.append(num_bytes)
        block.zero_grad()
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in block.parameters()])
    assert kept[0] - kept[1] == 4 * states[..., 0].numel() * CONFIG.intermediate_size
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
