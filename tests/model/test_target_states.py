"""A backbone that computes only target states gives the states and the gradients of one that computes all."""

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

PADDED_COUNTS = [(None, None), (16, 24)]
"""As many positions as needed, and more."""
Counts = tuple[int | None, int | None]
Gradients = dict[str, Tensor]


def a_backbone(config: ModelConfig) -> Backbone:
    torch.manual_seed(3)
    backbone = Backbone(dataclasses.replace(config, dropout=0.0))
    with torch.no_grad():
        for parameter in backbone.parameters():  # away from its start, where a forgotten bias would not show
            parameter += 0.2 * torch.randn(parameter.shape)
    return backbone


def some(batch: Batch, padded_counts: Counts = (None, None)) -> TargetStates:
    """A third of the pieces and of the regions."""
    masks = (batch.token_mask, batch.region_mask)
    chosen = [mask & (torch.rand(mask.shape, generator=rng(4)) < 1 / 3) for mask in masks]
    return TargetStates(
        text=TargetPositions(mask=chosen[0], padded_count=padded_counts[0]),
        regions=TargetPositions(mask=chosen[1], padded_count=padded_counts[1]),
    )


def gradients(backbone: Backbone, states: Encoded, targets: TargetStates) -> Gradients:
    """Of a number that depends on every target state."""
    weights = torch.linspace(-1, 1, CONFIG.hidden_size)
    read = (states.text[targets.text.mask], states.regions[targets.regions.mask], states.pair)
    backbone.zero_grad()
    torch.stack([(part * weights).sin().sum() for part in read]).sum().backward()
    return {name: part.grad.clone() for name, part in backbone.named_parameters() if part.grad is not None}


@pytest.mark.parametrize("padded_counts", PADDED_COUNTS, ids=["as many as needed", "padded"])
@pytest.mark.parametrize("name", FAMILY)
def test_target_states_and_gradients_are_those_of_a_full_layer(
    name: str, padded_counts: tuple[int | None, int | None]
) -> None:
    backbone, batch = a_backbone(FAMILY[name]), a_batch()
    targets = some(batch, padded_counts)
    full, partial = backbone(batch), backbone(batch, targets)
    for part, positions in (("text", targets.text), ("regions", targets.regions)):
        torch.testing.assert_close(getattr(partial, part)[positions.mask], getattr(full, part)[positions.mask])
    torch.testing.assert_close(partial.pair, full.pair)
    expected, found = gradients(backbone, full, targets), gradients(backbone, partial, targets)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        if not parameter.endswith("key.bias"):  # its gradient is rounding: softmax does not depend on it
            assert (found[parameter] - gradient).norm() <= 1e-12 * gradient.norm(), parameter


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_other_states_are_zero(name: str) -> None:
    backbone, batch = a_backbone(FAMILY[name]), a_batch()
    targets = some(batch)
    encoded = backbone(batch, targets)
    assert not encoded.text[:, 1:][~targets.text.mask[:, 1:]].any()
    assert not encoded.regions[~targets.regions.mask].any()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_without_targets_the_pair_is_the_same(name: str) -> None:
    backbone, batch = a_backbone(FAMILY[name]), a_batch()
    nothing = TargetStates(
        text=TargetPositions(mask=batch.token_mask & False), regions=TargetPositions(mask=batch.region_mask & False)
    )
    torch.testing.assert_close(backbone(batch, nothing).pair, backbone(batch).pair)


@torch.no_grad()
def test_the_last_layer_computes_the_target_positions_alone() -> None:
    backbone, batch = a_backbone(FAMILY["LXMERT-S"]), a_batch()
    targets, seen = some(batch), []
    for block in (backbone.layers[-1].text_feed_forward, backbone.layers[-1].region_feed_forward):
        block.register_forward_hook(lambda _, arguments, result: seen.append(len(arguments[0])))
    backbone(batch, targets)
    assert seen == [int(targets.text.mask[:, 1:].sum()) + 3, int(targets.regions.mask.sum()) + 3]  # and a [CLS] a pair
