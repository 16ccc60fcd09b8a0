"""A trunk that is told which states will be read computes these as ever, and the same gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import CONFIG, FAMILY, a_batch, rng
from torch import Tensor

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Trunk
from msp_ds.model.positions import Asked, Places
from msp_ds.records import Batch, Encoded

pytestmark = pytest.mark.usefixtures("float64")

ROOMS = [(None, None), (16, 24)]
"""As many rows as needed, and more than that."""
Gradients = dict[str, Tensor]


def a_trunk(config: ModelConfig) -> Trunk:
    torch.manual_seed(3)
    trunk = Trunk(dataclasses.replace(config, dropout=0.0))
    with torch.no_grad():
        for parameter in trunk.parameters():  # away from its start, where a forgotten bias would not show
            parameter += 0.2 * torch.randn(parameter.shape)
    return trunk


def some(batch: Batch, rooms: tuple[int | None, int | None] = (None, None)) -> Asked:
    """A third of the pieces and of the regions."""
    masks = (batch.token_mask, batch.region_mask)
    chosen = [mask & (torch.rand(mask.shape, generator=rng(4)) < 1 / 3) for mask in masks]
    return Asked(text=Places(where=chosen[0], room=rooms[0]), regions=Places(where=chosen[1], room=rooms[1]))


def gradients(trunk: Trunk, states: Encoded, asked: Asked) -> Gradients:
    """Of a number that hears of every state that is asked for."""
    weights = torch.linspace(-1, 1, CONFIG.hidden_size)
    read = (states.text[asked.text.where], states.regions[asked.regions.where], states.pair)
    trunk.zero_grad()
    torch.stack([(part * weights).sin().sum() for part in read]).sum().backward()
    return {name: part.grad.clone() for name, part in trunk.named_parameters() if part.grad is not None}


@pytest.mark.parametrize("rooms", ROOMS, ids=["as many as needed", "room for more"])
@pytest.mark.parametrize("name", FAMILY)
def test_states_and_gradients_are_those_of_all_rows(name: str, rooms: tuple[int | None, int | None]) -> None:
    trunk, batch = a_trunk(FAMILY[name]), a_batch()
    asked = some(batch, rooms)
    plain, told = trunk(batch), trunk(batch, asked)
    for part, places in (("text", asked.text), ("regions", asked.regions)):
        torch.testing.assert_close(getattr(told, part)[places.where], getattr(plain, part)[places.where])
    torch.testing.assert_close(told.pair, plain.pair)
    expected, found = gradients(trunk, plain, asked), gradients(trunk, told, asked)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        if not parameter.endswith("key.bias"):  # whose gradient is rounding: softmax does not feel it
            assert (found[parameter] - gradient).norm() <= 1e-12 * gradient.norm(), parameter


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_states_that_nobody_asked_for_are_zero(name: str) -> None:
    trunk, batch = a_trunk(FAMILY[name]), a_batch()
    asked = some(batch)
    told = trunk(batch, asked)
    assert not told.text[:, 1:][~asked.text.where[:, 1:]].any()
    assert not told.regions[~asked.regions.where].any()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_without_questions_the_pair_is_the_same(name: str) -> None:
    trunk, batch = a_trunk(FAMILY[name]), a_batch()
    nothing = Asked(text=Places(where=batch.token_mask & False), regions=Places(where=batch.region_mask & False))
    torch.testing.assert_close(trunk(batch, nothing).pair, trunk(batch).pair)


@torch.no_grad()
def test_the_last_layer_thinks_about_the_asked_rows_alone() -> None:
    trunk, batch = a_trunk(FAMILY["LXMERT-S"]), a_batch()
    asked, seen = some(batch), []
    for block in (trunk.layers[-1].text_feed_forward, trunk.layers[-1].region_feed_forward):
        block.register_forward_hook(lambda _, arguments, result: seen.append(len(arguments[0])))
    trunk(batch, asked)
    assert seen == [int(asked.text.where[:, 1:].sum()) + 3, int(asked.regions.where.sum()) + 3]  # and a [CLS] a pair
