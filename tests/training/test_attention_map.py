"""Where words look, beside torch's own attention and a trunk that cannot look away."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from msp_ds.model.encoder import Trunk
from msp_ds.model.layers import Attention
from msp_ds.training.attention_map import attention_shares, encode_and_look


def test_the_shares_are_those_of_torch_s_multi_head_attention() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(tiny.CONFIG), nn.MultiheadAttention(tiny.HIDDEN, tiny.CONFIG.num_heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    states, memory = torch.randn(3, 4, tiny.HIDDEN), torch.randn(3, 6, tiny.HIDDEN)
    mask = torch.arange(6) < torch.tensor([6, 3, 5])[:, None]
    shares = attention_shares(ours, states, memory, mask)
    torch.testing.assert_close(shares, theirs(states, memory, memory, key_padding_mask=~mask)[1])


@pytest.mark.parametrize("name", tiny.FAMILY)
def test_no_word_looks_at_a_region_that_is_not_there(name: str) -> None:
    trunk, batch = Trunk(tiny.FAMILY[name]).eval(), tiny.a_batch(counts=(6, 4, 1))
    with torch.no_grad():
        encoded, looks = encode_and_look(trunk, batch)
        torch.testing.assert_close(encoded.pair, trunk(batch).pair)
    assert looks.shape == (3, 8, 6)
    assert bool((looks[~batch.region_mask[:, None].expand_as(looks)] == 0).all())
    assert bool((looks[batch.region_mask[:, None].expand_as(looks)] > 0).all())


def test_without_a_visual_cls_all_of_a_look_goes_to_the_regions() -> None:
    trunk, batch = Trunk(tiny.FAMILY["LXMERT"]).eval(), tiny.a_batch()
    with torch.no_grad():
        _, looks = encode_and_look(trunk, batch)
    torch.testing.assert_close(looks.sum(-1), torch.ones(3, 8))
