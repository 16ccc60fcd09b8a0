"""Where words look: the shares with which the last layer attends from each piece of a text to each region.

The layers attend in one fused call that keeps no shares. Here they are computed apart, from what that call was given.

B batch, T text tokens, R regions, S queries, M memory slots, h heads, H hidden size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from msp_ds.model.encoder import Backbone
from msp_ds.model.layers import Attention, CrossModalityLayer
from msp_ds.records import Batch, Encoded


def attention_shares(attention: Attention, states: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
    """[B, h, S, M]: softmax(q k / sqrt(d)) of `states` [B, S, H] at `memory` [B, M, H].

    Zero where bool [B, M] `memory_mask` does not hold; each row adds up to one.
    """
    query, key = (
        layer(source).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for layer, source in ((attention.query, states), (attention.key, memory))
    )
    products = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    shares: Tensor = products.masked_fill(~memory_mask[:, None, None, :], -math.inf).softmax(-1)
    return shares


def last_look(backbone: Backbone) -> Attention:
    """The attention of the last layer by which text looks at regions; in a single stream it looks at both."""
    last: Any = list(backbone.layers)[-1]
    found: Attention = last.cross if isinstance(last, CrossModalityLayer) else last.self_attention
    return found


@torch.no_grad()
def encode_and_look(backbone: Backbone, batch: Batch) -> tuple[Encoded, Tensor]:
    """The states of a batch, and float32 [B, T, R]: the share of a piece's attention on each region, mean over heads.

    What a row lacks to one lies on the visual [CLS] and, in a single stream, on the text.
    """
    calls: list[tuple[Tensor, ...]] = []
    looking = last_look(backbone)
    handle = looking.register_forward_pre_hook(lambda module, given: calls.append(given))
    try:
        encoded = backbone(batch)
    finally:
        handle.remove()
    # A cross-modality layer looks twice with the same weights, the text at the regions first.
    states, memory, memory_mask = calls[0][:3]
    shares = attention_shares(looking, states, memory, memory_mask).mean(1)
    shares = shares.to(torch.promote_types(shares.dtype, torch.float32))
    num_tokens, num_regions = batch.token_ids.shape[1], batch.region_mask.shape[1]
    return encoded, shares[:, :num_tokens, memory.shape[1] - num_regions :]
