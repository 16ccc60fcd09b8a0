"""Where words look: the shares that the last layer gives to the regions, taken while the trunk runs.

B batch, T text tokens, R regions, S region slots: 1 + R with a visual [CLS], else R.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from msp_ds.model.encoder import Trunk
from msp_ds.model.layers import Attention
from msp_ds.model.streams import SingleStream
from msp_ds.records import Batch, Encoded


def encode_and_look(trunk: Trunk, batch: Batch) -> tuple[Encoded, Tensor]:
    """The states of a batch, and float32 [B, T, R]: how much each word looks at each region, mean over the heads.

    Of the last layer: words at regions where text and regions are two streams; in one stream the columns of the
    regions, which do not add up to one.
    """
    last: Any = trunk.layers[-1]
    is_single = isinstance(trunk.layers, SingleStream)
    attention: nn.Module = last.self_attention if is_single else last.cross
    calls: list[tuple[Tensor, ...]] = []
    hook = attention.register_forward_hook(lambda module, arguments, result: calls.append(arguments))
    try:
        encoded = trunk(batch)
    finally:
        hook.remove()
    shares = attention_shares(attention, *calls[0])  # of two calls, text to regions comes first
    num_tokens = batch.token_ids.shape[1]
    if is_single:
        shares = shares[:, :num_tokens, num_tokens:]
    return encoded, shares[:, :, int(trunk.config.visual_cls) :]


def attention_shares(attention: Any, states: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
    """float32 [B, Q, M]: what an Attention gives to each of M memory slots, mean over the heads, without dropout.

    states: [B, Q, H]; memory: [B, M, H]; memory_mask: bool [B, M].
    """
    module: Attention = attention
    query, key = (
        layer(source).unflatten(-1, (module.num_heads, -1)).transpose(1, 2).float()
        for layer, source in ((module.query, states), (module.key, memory))
    )
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~memory_mask[:, None, None, :], -torch.inf)
    shares: Tensor = scores.softmax(-1).mean(1)
    return shares
