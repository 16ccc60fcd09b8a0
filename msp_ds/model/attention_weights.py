"""Attention weights of the last layer: how much each piece of a text attends to each region.

The layers attend in one fused call that does not return its weights. They are computed again here, from that call's
inputs.

B pairs of a batch, T text tokens, R regions, S queries, M memory slots, h heads, H hidden size.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from msp_ds.model.encoder import Backbone
from msp_ds.model.layers import Attention, CrossModalityLayer
from msp_ds.records import Batch, Encoded


def attention_weights(attention: Attention, states: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
    """Return [B, h, S, M], softmax(q k / sqrt(d)) of `states` [B, S, H] over `memory` [B, M, H].

    Weights are zero where bool [B, M] `memory_mask` is False; each row sums to one.
    """
    query, key = (
        layer(source).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for layer, source in ((attention.query, states), (attention.key, memory))
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    return cast(Tensor, scores.masked_fill(~memory_mask[:, None, None, :], -math.inf).softmax(-1))


def last_attention(backbone: Backbone) -> Attention:
    """Return the last attention from text to regions; in a single stream, the last attention over both."""
    last: Any = list(backbone.layers)[-1]
    return cast(Attention, last.cross if isinstance(last, CrossModalityLayer) else last.self_attention)


@torch.no_grad()
def encode_with_attention(backbone: Backbone, batch: Batch) -> tuple[Encoded, Tensor]:
    """Encode a batch and return float32 [B, T, R], each piece's attention weights on the regions, mean over heads.

    The rest of each row, up to one, is on the visual [CLS] and, in a single stream, on the text.
    """
    calls: list[tuple[Tensor, ...]] = []
    attention = last_attention(backbone)
    handle = attention.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    try:
        encoded = backbone(batch)
    finally:
        handle.remove()
    # A cross-modality layer attends twice with the same weights, first from the text to the regions.
    states, memory, memory_mask = calls[0][:3]
    weights = attention_weights(attention, states, memory, memory_mask).mean(1)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    num_tokens, num_regions = batch.token_ids.shape[1], batch.region_mask.shape[1]
    return encoded, weights[:, :num_tokens, memory.shape[1] - num_regions :]
