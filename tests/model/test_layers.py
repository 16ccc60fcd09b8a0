"""A layer is what BERT's and LXMERT's are, told a second time with loops over pairs, heads and queries."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest
import torch
from tiny import CONFIG, rng
from torch import Tensor, nn

from msp_ds.model.layers import CrossModalityLayer, SelfLayer

pytestmark = pytest.mark.usefixtures("float64")

Weights = dict[str, Tensor]


Made = TypeVar("Made", bound=nn.Module)


def away_from_its_start(module: Made) -> Made:
    """In double precision, with every weight (biases and LayerNorms too) at random."""
    module.double().eval()
    for place, parameter in enumerate(module.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=rng(place), dtype=torch.float64) * 0.5
    return module


@pytest.fixture
def layer() -> CrossModalityLayer:
    return away_from_its_start(CrossModalityLayer(CONFIG))


def streams() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two texts of 4 and 3 pieces, two images of 3 and 5 regions."""
    text, regions = (torch.randn(2, n, CONFIG.hidden_size, generator=rng(n), dtype=torch.float64) for n in (4, 5))
    text_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    region_mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    return text, regions, text_mask, region_mask


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attend(x: Tensor, memory: Tensor, mask: Tensor, weights: Weights, name: str) -> Tensor:
    """One pair: softmax(q k / sqrt(d) - 10 000 where masked) v for each head, output projection, residual, norm."""
    q, k, v = (
        linear(source, weights, f"{name}.{part}")
        for part, source in zip(("query", "key", "value"), (x, memory, memory), strict=True)
    )
    size, heads = CONFIG.hidden_size // CONFIG.num_heads, []
    for first in range(0, CONFIG.hidden_size, size):
        part = slice(first, first + size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size) - 10_000.0 * (~mask)
        shares = scores.exp() / scores.exp().sum(1, keepdim=True)
        heads.append(shares @ v[:, part])
    return layer_norm(x + linear(torch.cat(heads, 1), weights, f"{name}.output"), weights, f"{name}.norm")


def think(x: Tensor, weights: Weights, name: str) -> Tensor:
    wide = linear(x, weights, f"{name}.widen")
    activated = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    return layer_norm(x + linear(activated, weights, f"{name}.narrow"), weights, f"{name}.norm")


def reference(
    text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor, weights: Weights
) -> tuple[Tensor, Tensor]:
    """One pair through the layer: [T, H] and [R, H]."""
    seen_text = attend(text, regions, region_mask, weights, "cross")
    seen_regions = attend(regions, text, text_mask, weights, "cross")
    text = attend(seen_text, seen_text, text_mask, weights, "text_self")
    regions = attend(seen_regions, seen_regions, region_mask, weights, "region_self")
    return think(text, weights, "text_feed_forward"), think(regions, weights, "region_feed_forward")


@torch.no_grad()
def test_a_layer_equals_the_plain_one(layer: CrossModalityLayer) -> None:
    weights = dict(layer.named_parameters())
    together = layer(*streams())
    for place in range(2):
        alone = reference(*(part[place] for part in streams()), weights)
        for got, wanted in zip(together, alone, strict=True):
            torch.testing.assert_close(got[place], wanted, atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_layer_in_single_precision_stays_within_a_hundred_thousandth(layer: CrossModalityLayer) -> None:
    text, regions, text_mask, region_mask = streams()
    exact = layer(text, regions, text_mask, region_mask)
    single = layer.float()(text.float(), regions.float(), text_mask, region_mask)
    for got, wanted in zip(single, exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cls_only_gives_the_first_rows(layer: CrossModalityLayer) -> None:
    whole, first = layer(*streams()), layer(*streams(), cls_only=True)
    for all_rows, one_row in zip(whole, first, strict=True):
        torch.testing.assert_close(one_row, all_rows[:, :1], atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("cls_only", [False, True])
def test_streams_projected_before_give_the_same(layer: CrossModalityLayer, cls_only: bool) -> None:
    text, regions, *masks = streams()
    early = layer(layer.cross.project(text), layer.cross.project(regions), *masks, cls_only=cls_only)
    for got, wanted in zip(early, layer(text, regions, *masks, cls_only=cls_only), strict=True):
        assert torch.equal(got, wanted)


@torch.no_grad()
def test_text_cls_gives_the_first_text_row(layer: CrossModalityLayer) -> None:
    torch.testing.assert_close(layer.text_cls(*streams()), layer(*streams())[0][:, :1], atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_layer_of_one_sequence_equals_the_plain_one() -> None:
    made = away_from_its_start(SelfLayer(CONFIG))
    weights = dict(made.named_parameters())
    states, _, mask, _ = streams()
    together = made(states, mask)
    for place in range(2):
        seen = attend(states[place], states[place], mask[place], weights, "self_attention")
        torch.testing.assert_close(together[place], think(seen, weights, "feed_forward"), atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_layer_of_one_sequence_gives_the_states_of_its_queries() -> None:
    made = away_from_its_start(SelfLayer(CONFIG))
    states, _, mask, _ = streams()
    torch.testing.assert_close(made(states, mask, queries=[0, 2]), made(states, mask)[:, [0, 2]], atol=1e-12, rtol=0)


def test_dropout_acts_in_training_and_not_in_evaluation(layer: CrossModalityLayer) -> None:
    torch.manual_seed(0)
    first, second = layer.train()(*streams()), layer(*streams())
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert torch.equal(layer.eval()(*streams())[0], layer(*streams())[0])
