"""bf16 and fp16 stay within 2e-2 of fp32 on every head, by autocast as the engine does it and with weights cast.

Measured is |half - single| over |single|, both as Euclidean norms over all asked places: the relative error of a head's
whole answer. Single logits near zero have no meaningful relative error of their own; and as the two logits of a fresh
match head are nearly the same for every pair, 64 such heads are asked, not one.
"""

from __future__ import annotations

import copy
import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import a_batch, rng
from torch import Tensor, nn

from msp_ds.config import ModelConfig
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import HEADS, MatchHead, build_heads
from msp_ds.records import Batch

SMALL = ModelConfig(
    hidden_size=128,
    num_layers=5,
    num_heads=4,
    intermediate_size=512,
    dropout=0.0,
    vocab_size=200,
    feature_width=64,
    num_objects=40,
    num_attributes=20,
    init_std=0.049,  # 0.02 times sqrt(768 / 128): states as strong as at the paper's width
)
"""As deep as the paper's, a sixth as wide."""
PAPER = ModelConfig(dropout=0.0)
LARGEST = 2e-2
LARGEST_OF_SMALL = {(torch.bfloat16, True): 3e-2}
"""A narrow state averages fewer rounding errors: the small model with weights in bf16 is allowed a half more."""
HALVES = [torch.bfloat16, torch.float16]
WAYS = [(dtype, cast) for dtype in HALVES for cast in (False, True)]


class Model(nn.Module):
    """A backbone with every head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.backbone = Backbone(config)
        self.heads = build_heads(HEADS, config, self.backbone)
        self.match_heads = nn.ModuleList(MatchHead(config, self.backbone) for _ in range(64))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What each head says of every place, in the type that it says it in."""
        states, heads = self.backbone(batch), self.heads
        here = batch.region_mask
        regions = heads["region"](states.regions[here], states.pair[here.nonzero()[:, 0]])
        return {
            "token": heads["token"](states.text[batch.token_mask]),
            "objects": heads["region"].objects(regions),
            "attributes": heads["region"].attributes(regions),
            "features": heads["region"].features(regions),
            "topic": heads["topic"](states.pair),
            "match": torch.cat([head(states.pair) for head in self.match_heads]),
        }


def a_batch_for(config: ModelConfig, *, num_pairs: int) -> Batch:
    """Random pairs, a third of whose regions is masked: their features are nought."""
    clean = a_batch([12 - pair % 5 for pair in range(num_pairs)], [10 - pair % 4 for pair in range(num_pairs)], seed=5)
    masked = torch.arange(10) % 3 == 0
    values = torch.rand(num_pairs, 10, config.feature_width, generator=rng(6))
    features = (4 * values - 2).relu() * (clean.region_mask & ~masked)[..., None]
    return dataclasses.replace(clean, features=features.half())


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SMALL).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return a_batch_for(SMALL, num_pairs=24)


def relative_error(half: Tensor, single: Tensor) -> float:
    return float((half.double() - single.double()).norm() / single.double().norm())


def answers(model: Model, batch: Batch, dtype: torch.dtype, *, cast: bool) -> dict[str, Tensor]:
    """Every head's answer in half precision: weights cast as ZeRO does it, or fp32 weights under autocast."""
    if cast:
        model = copy.deepcopy(model).to(dtype)
    context: Any = nullcontext() if cast else torch.autocast("cpu", dtype=dtype)
    with torch.no_grad(), context:
        result: dict[str, Tensor] = model(batch)
    return result


def assert_close(model: Model, batch: Batch, dtype: torch.dtype, *, cast: bool, largest: float) -> None:
    with torch.no_grad():
        single = model(batch)
    half = answers(model, batch, dtype, cast=cast)
    assert set(half) == set(single)
    for name, result in half.items():
        assert result.isfinite().all(), name
        assert relative_error(result, single[name]) < largest, name


@pytest.mark.parametrize(("dtype", "cast"), WAYS)
def test_every_head_stays_close_to_single_precision(model: Model, batch: Batch, dtype: torch.dtype, cast: bool) -> None:
    assert_close(model, batch, dtype, cast=cast, largest=LARGEST_OF_SMALL.get((dtype, cast), LARGEST))


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "cast"), WAYS)
def test_at_the_papers_size_every_head_is_within_two_hundredths(dtype: torch.dtype, cast: bool) -> None:
    assert_close(Model(PAPER).eval(), a_batch_for(PAPER, num_pairs=8), dtype, cast=cast, largest=LARGEST)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_error_is_that_of_rounding_and_not_nought(model: Model, batch: Batch, dtype: torch.dtype) -> None:
    with torch.no_grad():
        single = model(batch)
    errors = [relative_error(result, single[name]) for name, result in answers(model, batch, dtype, cast=True).items()]
    assert min(errors) > torch.finfo(dtype).eps / 10


@pytest.mark.parametrize(("dtype", "cast"), WAYS)
def test_layer_norm_of_equal_numbers_is_its_offset(dtype: torch.dtype, cast: bool) -> None:
    # 1e-12 is nought in fp16, whose smallest number is 6e-8: were it added there, 0 / 0 would be nan.
    norm = nn.LayerNorm(8, eps=SMALL.layer_norm_eps)
    nn.init.constant_(norm.bias, 0.5)
    context: Any = nullcontext() if cast else torch.autocast("cpu", dtype=dtype)
    with context:
        for value in (0.0, 3.0):
            result = (norm.to(dtype) if cast else norm)(torch.full((2, 8), value, dtype=dtype))
            assert torch.equal(result.float(), torch.full((2, 8), 0.5))


@pytest.mark.parametrize(("dtype", "cast"), WAYS)
def test_masked_regions_are_finite_forward_and_backward(
    model: Model, batch: Batch, dtype: torch.dtype, cast: bool
) -> None:
    nothing = dataclasses.replace(batch, features=torch.zeros_like(batch.features))
    with torch.no_grad():
        bare = copy.deepcopy(model)
        bare.backbone.regions.feature.bias.zero_()  # a masked region's LayerNorm sees nothing but zeros
    bare = bare.to(dtype) if cast else bare
    context: Any = nullcontext() if cast else torch.autocast("cpu", dtype=dtype)
    with context:
        result = bare(nothing)
        total = sum(answer.float().square().mean() for answer in result.values())
    assert all(answer.isfinite().all() for answer in result.values())
    assert isinstance(total, Tensor)
    total.backward()
    gradient = bare.backbone.layers[0].cross.query.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
