"""A backbone that is told which states will be read computes these as ever, and the same gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import CONFIG, FAMILY, a_batch, rng
from torch import Tensor

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Backbone
from msp_ds.model.positions import TargetPositions, TargetStates
from msp_ds.records import Batch, Encoded

pytestmark = pytest.mark.usefixtures("float64")

ROOMS = [(None, None), (16, 24)]
"""As many rows as needed, and more than that."""
Gradients = dict[str, Tensor]


def a_backbone(config: ModelConfig) -> Backbone:
    torch.manual_seed(3)
    backbone = Backbone(dataclasses.replace(config, dropout=0.0))
    with torch.no_grad():
        for parameter in backbone.parameters():  # away from its start, where a forgotten bias would not show
            parameter += 0.2 * torch.randn(parameter.shape)
    return backbone


def some(batch: Batch, rooms: tuple[int | None, int | None] = (None, None)) -> TargetStates:
    """A third of the pieces and of the regions."""
    masks = (batch.token_mask, batch.region_mask)
    chosen = [mask & (torch.rand(mask.shape, generator=rng(4)) < 1 / 3) for mask in masks]
    return TargetStates(
        text=TargetPositions(where=chosen[0], padded_count=rooms[0]),
        regions=TargetPositions(where=chosen[1], padded_count=rooms[1]),
    )


def gradients(backbone: Backbone, states: Encoded, asked: TargetStates) -> Gradients:
    """Of a number that hears of every state that is asked for."""
    weights = torch.linspace(-1, 1, CONFIG.hidden_size)
    read = (states.text[asked.text.where], states.regions[asked.regions.where], states.pair)
    backbone.zero_grad()
    torch.stack([(part * weights).sin().sum() for part in read]).sum().backward()
    return {name: part.grad.clone() for name, part in backbone.named_parameters() if part.grad is not None}


@pytest.mark.parametrize("rooms", ROOMS, ids=["as many as needed", "room for more"])
@pytest.mark.parametrize("name", FAMILY)
def test_states_and_gradients_are_those_of_all_rows(name: str, rooms: tuple[int | None, int | None]) -> None:
    backbone, batch = a_backbone(FAMILY[name]), a_batch()
    asked = some(batch, rooms)
    plain, told = backbone(batch), backbone(batch, asked)
    for part, places in (("text", asked.text), ("regions", asked.regions)):
        torch.testing.assert_close(getattr(told, part)[places.where], getattr(plain, part)[places.where])
    torch.testing.assert_close(told.pair, plain.pair)
    expected, found = gradients(backbone, plain, asked), gradients(backbone, told, asked)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        if not parameter.endswith("key.bias"):  # whose gradient is rounding: softmax does not feel it
            assert (found[parameter] - gradient).norm() <= 1e-12 * gradient.norm(), parameter


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_states_that_nobody_asked_for_are_zero(name: str) -> None:
    backbone, batch = a_backbone(FAMILY[name]), a_batch()
    asked = some(batch)
    told = backbone(batch, asked)
    assert not told.text[:, 1:][~asked.text.where[:, 1:]].any()
    assert not told.regions[~asked.regions.where].any()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_without_questions_the_pair_is_the_same(name: str) -> None:
    backbone, batch = a_backbone(FAMILY[name]), a_batch()
    nothing = TargetStates(
        text=TargetPositions(where=batch.token_mask & False), regions=TargetPositions(where=batch.region_mask & False)
    )
    torch.testing.assert_close(backbone(batch, nothing).pair, backbone(batch).pair)


@torch.no_grad()
def test_the_last_layer_thinks_about_the_asked_rows_alone() -> None:
    backbone, batch = a_backbone(FAMILY["LXMERT-S"]), a_batch()
    asked, seen = some(batch), []
    for block in (backbone.layers[-1].text_feed_forward, backbone.layers[-1].region_feed_forward):
        block.register_forward_hook(lambda _, arguments, result: seen.append(len(arguments[0])))
    backbone(batch, asked)
    assert seen == [int(asked.text.where[:, 1:].sum()) + 3, int(asked.regions.where.sum()) + 3]  # and a [CLS] a pair
