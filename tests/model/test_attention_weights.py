"""Attention weights equal those of the fused call and stand at the right words and regions."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import CONFIG, FAMILY, HIDDEN, a_batch, rng
from torch import Tensor

from msp_ds.model.attention_weights import attention_weights, encode_with_attention, last_attention
from msp_ds.model.encoder import Backbone
from msp_ds.model.layers import Attention
from msp_ds.records import Batch

pytestmark = pytest.mark.usefixtures("float64")


def some_attention() -> tuple[Attention, Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    attention = Attention(CONFIG).double().eval()
    for place, parameter in enumerate(attention.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=rng(place), dtype=torch.float64)
    states, memory = (torch.randn(2, n, HIDDEN, generator=rng(n), dtype=torch.float64) for n in (3, 4))
    return attention, states, memory, torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]]).bool()


@torch.no_grad()
def test_weights_times_values_equal_the_fused_call() -> None:
    attention, states, memory, mask = some_attention()
    weights = attention_weights(attention, states, memory, mask)
    values = attention.value(memory).unflatten(-1, (2, -1)).transpose(1, 2)
    seen = (weights @ values).transpose(1, 2).flatten(2)
    expected = attention.norm(states + attention.output(seen))
    torch.testing.assert_close(attention(states, memory, mask), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_weights_equal_those_of_a_plain_loop() -> None:
    attention, states, memory, mask = some_attention()
    weights = attention_weights(attention, states, memory, mask)
    query, key = attention.query(states), attention.key(memory)
    half = HIDDEN // 2
    for head, part in enumerate((slice(0, half), slice(half, None))):
        powers = [
            math.exp(float(query[1, 2, part] @ key[1, place, part]) / math.sqrt(half)) if mask[1, place] else 0.0
            for place in range(4)
        ]
        assert weights[1, head, 2].tolist() == pytest.approx([power / sum(powers) for power in powers])


def all_attention(backbone: Backbone, batch: Batch) -> Tensor:
    """[B, h, queries, slots] of the last layer's first attention, from the inputs of its fused call."""
    caught: list[tuple[Tensor, Tensor, Tensor]] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
        caught.append((query, key, attn_mask))
        return fused(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msp_ds.model.dropout.F.scaled_dot_product_attention", watched)
        backbone(batch)
    calls_a_layer = 4 if backbone.config.encoder == "cross" else 1  # across twice, then each stream at itself
    query, key, mask = caught[-calls_a_layer]
    # An identity as values makes the fused call return its own weights.
    slots = torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1)
    return fused(query, key, slots, attn_mask=mask)


@pytest.mark.parametrize("name", FAMILY)
@torch.no_grad()
def test_each_encoder_returns_the_attention_of_its_last_layer(name: str) -> None:
    torch.manual_seed(5)
    backbone, batch = Backbone(FAMILY[name]).eval(), a_batch()
    encoded, weights = encode_with_attention(backbone, batch)
    assert torch.equal(encoded.pair, backbone(batch).pair)
    whole = all_attention(backbone, batch).mean(1)
    num_tokens, num_regions = batch.token_ids.shape[1], batch.region_mask.shape[1]
    torch.testing.assert_close(weights, whole[:, :num_tokens, -num_regions:], atol=1e-12, rtol=0)
    assert not weights[~batch.region_mask[:, None].expand_as(weights)].any()
    assert (weights.sum(2) <= 1 + 1e-6).all()
    if not FAMILY[name].visual_cls and FAMILY[name].encoder == "cross":
        torch.testing.assert_close(weights.sum(2), torch.ones(weights.shape[:2]))


def test_encode_with_attention_removes_its_hook() -> None:
    backbone = Backbone(CONFIG).eval()
    encode_with_attention(backbone, a_batch())
    assert not last_attention(backbone)._forward_pre_hooks
