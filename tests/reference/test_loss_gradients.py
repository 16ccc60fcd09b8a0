"""Gradients of every loss equal central finite differences in float64, for every head weight and encoder state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference.comparison import GATES, TOPIC_HEADS, converted, double_heads
from tiny import a_batch, context, encoded
from torch import Tensor

from msp_ds.tasks import TASKS
from msp_ds.tasks.task import corrupt

STEP = 1e-5
"""The error of a central difference is about STEP^2 = 1e-10 by its form and 1e-16 / STEP = 1e-11 by rounding."""
READINGS: dict[str, list[dict[str, Any]]] = {
    "mlm": [{}],
    "mrfr": [{}, {"mrfr_loss": "mse", "region_normaliser": "asked"}],
    "moc": [{}, {"moc_target": "all", "moc_weight": "none"}],
    "ifrs": [{}, {"ifrs_loss": "smooth_l1"}],
    "titp": [{"topic_attributes": True}],
    "tits": [{"topic_words": "content"}],
    "itm_hs": [{}],
}
STATES = {"mlm": {"text"}, "mrfr": {"regions", "pair"}, "moc": {"regions", "pair"}, "ifrs": {"regions", "pair"}}
"""The states that a task reads through gated heads; of those not named here, the pair alone."""
CASES = [(name, reading, kind) for name, readings in READINGS.items() for reading in readings for kind in (0, 1)]


def central_differences(leaf: Tensor, loss: Callable[[], Tensor]) -> Tensor:
    """d loss / d leaf, one entry after the other; `leaf` is changed in place and put back."""
    slopes = torch.zeros_like(leaf)
    flat, flat_slopes = leaf.detach().view(-1), slopes.view(-1)
    with torch.no_grad():
        for place, value in enumerate(flat.tolist()):
            flat[place] = value + STEP
            above = loss().item()
            flat[place] = value - STEP
            flat_slopes[place] = (above - loss().item()) / (2 * STEP)
            flat[place] = value
    return slopes


@pytest.mark.parametrize(("name", "reading", "kind"), CASES)
def test_gradients_are_the_slopes_of_the_loss(name: str, reading: dict[str, Any], kind: int) -> None:
    heads = double_heads(GATES[kind], TOPIC_HEADS[kind])
    clean = a_batch((6, 5), (5, 4), seed=3)
    corruption = dataclasses.replace(clean.corruption, matched=torch.tensor([True, False]))
    clean = dataclasses.replace(clean, corruption=corruption)
    ctx = context(**{"token_probability": 0.5, "region_probability": 0.3, "ifrs_probability": 1.0, **reading}, seed=4)
    corrupted, states = corrupt(clean, list(TASKS.values()), ctx), converted(encoded(clean), torch.float64)

    def loss() -> Tensor:
        return TASKS[name].score(heads, states, clean, corrupted, ctx).loss

    leaves = {f"head {one}": weight for one, weight in heads.named_parameters()}
    leaves |= {one: getattr(states, one) for one in ("text", "regions", "pair")}
    loss().backward()
    moved = set()
    for one, leaf in leaves.items():
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        slopes = central_differences(leaf, loss)
        torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-8, msg=lambda found, one=one: f"{one}: {found}")
        moved |= {one} if slopes.any() else set()
    reads_pair = GATES[kind] == "pair" or name not in STATES
    wanted = STATES.get(name, {"pair"}) if reads_pair else STATES[name] - {"pair"}
    assert {one for one in moved if not one.startswith("head")} == wanted
    assert {one.split()[1].split(".")[0] for one in moved if one.startswith("head")} == set(TASKS[name].heads)
