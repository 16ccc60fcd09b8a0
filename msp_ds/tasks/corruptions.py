"""What is done to the input, as tensor operations on the whole batch (docs/tasks.md, Reading of the paper).

B batch, T text tokens, R regions, D random regions. The chance of every decision comes from Context.draw, one purpose
for each, so that it depends on the example and the epoch and on nothing else.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from msp_ds.records import Batch, MeanMetric
from msp_ds.stateless_random import (
    IMAGE_REPLACEMENT,
    REGION_CHOSEN,
    REGION_FATE,
    TOKEN_CHOSEN,
    TOKEN_FATE,
    TOKEN_REPLACEMENT,
    TRIPLET_CHOSEN,
    TRIPLET_ORDER,
)
from msp_ds.tasks.task import Context, Corruption, PairSampler, PairSource, SampledPairs

MASK_PROBABILITY = 0.8
"""Of the chosen tokens and regions, hidden; half of the rest is replaced, half kept (BERT's 80/10/10)."""
REPLACE_PROBABILITY = 0.1
NUM_RANDOM_REGIONS = 4
"""Random regions a pair: 0.54 are used on average; beyond four they repeat."""
PERMUTATIONS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""The five orders of a triplet that change something: place k gets the feature of place PERMUTATIONS[choice, k]."""


def mask_tokens(batch: Batch, context: Context) -> Batch:
    """Chooses 15 % of the pieces; 80 % of them become [MASK], 10 % a random piece, 10 % stay. Never [CLS] or [SEP]."""
    tables, num_tokens = context.tables, batch.token_ids.shape[1]
    is_special = (batch.token_ids == tables.cls_id) | (batch.token_ids == tables.sep_id)
    chances = context.draw(batch.keys, TOKEN_CHOSEN, num_tokens + 2)
    # By word, all pieces of a word share its number; positions start at 2 and never exceed the number of tokens + 1.
    by_word = context.options.mlm_unit == "word"
    chances = chances.gather(1, batch.word_positions) if by_word else chances[:, :num_tokens]
    chosen = batch.token_mask & ~is_special & (chances < context.options.token_probability)
    how = context.draw(batch.keys, TOKEN_FATE, num_tokens)
    other = (context.draw(batch.keys, TOKEN_REPLACEMENT, num_tokens) * tables.vocab_size).long()
    hidden = chosen & (how < MASK_PROBABILITY)
    replaced = chosen & (how >= MASK_PROBABILITY) & (how < MASK_PROBABILITY + REPLACE_PROBABILITY)
    token_ids = torch.where(hidden, tables.mask_id, torch.where(replaced, other, batch.token_ids))
    return dataclasses.replace(
        batch, token_ids=token_ids, corruption=dataclasses.replace(batch.corruption, masked_tokens=chosen)
    )


def choose_regions(batch: Batch, context: Context) -> Tensor:
    """bool [B, R]: the regions that are masked in this epoch, 15 % of each image's."""
    chances = context.draw(batch.keys, REGION_CHOSEN, batch.region_mask.shape[1])
    return batch.region_mask & (chances < context.options.region_probability)


def mask_regions(batch: Batch, context: Context) -> Batch:
    """Of the chosen regions 80 % lose their feature, 10 % get a random one, 10 % stay. The box is never masked."""
    chosen = choose_regions(batch, context)
    how = context.draw(batch.keys, REGION_FATE, chosen.shape[1])
    hidden = chosen & (how < MASK_PROBABILITY)
    replaced = chosen & (how >= MASK_PROBABILITY) & (how < MASK_PROBABILITY + REPLACE_PROBABILITY)
    # The k-th replaced region of an image takes its k-th random region.
    which = (replaced.cumsum(1) - 1).clamp(min=0) % batch.random_features.shape[1]
    random_regions = _rows_at(batch.random_features, which)
    features = batch.features.masked_fill(hidden[..., None], 0.0)
    features = torch.where(replaced[..., None], random_regions, features)
    return dataclasses.replace(
        batch, features=features, corruption=dataclasses.replace(batch.corruption, masked_regions=chosen)
    )


def _rows_at(features: Tensor, places: Tensor) -> Tensor:
    """[B, R, F]: of each pair's rows [B, D, F] those at int64 [B, R] `places`.

    Whole rows are copied, which a CPU does eight times as fast as gather goes through their elements.
    """
    first = torch.arange(len(features), device=places.device)[:, None] * features.shape[1]
    return features.flatten(0, 1).index_select(0, (first + places).flatten()).view(*places.shape, features.shape[2])


def _triplet_starts(allowed: Tensor, chances: Tensor, stride: int, share: float) -> Tensor:
    """bool [B, R]: where a triplet is shuffled, left to right without overlap. `allowed`: bool [B, R] starts."""
    starts = torch.zeros_like(allowed)
    free_from = torch.zeros(len(allowed), dtype=torch.int64, device=allowed.device)
    for start in range(0, allowed.shape[1] - 2, stride):
        hit = allowed[:, start] & (chances[:, start] < share) & (free_from <= start)
        starts[:, start] = hit
        free_from = torch.where(hit, start + 3, free_from)
    return starts


def shuffle_regions(batch: Batch, context: Context) -> Batch:
    """Shuffles triplets of consecutive unmasked features, each start with a chance of 5 %; boxes and text stay.

    Paper section 3.1. Without masked regions in them, MRFR and IFRS never ask about the same place; the masks are the
    same whether or not MRFR and MOC are trained, so that ablations shuffle alike.
    """
    options, num_regions = context.options, batch.region_mask.shape[1]
    usable = batch.region_mask & ~choose_regions(batch, context)
    allowed = torch.zeros_like(usable)
    allowed[:, : num_regions - 2] = usable[:, :-2] & usable[:, 1:-1] & usable[:, 2:]
    chances = context.draw(batch.keys, TRIPLET_CHOSEN, num_regions)
    stride = 3 if options.ifrs_choice == "stride3" else 1
    starts = _triplet_starts(allowed, chances, stride, options.ifrs_probability)
    choice = (context.draw(batch.keys, TRIPLET_ORDER, num_regions) * len(PERMUTATIONS)).long()
    moves = (_permutations(choice.device)[choice] - torch.arange(3, device=choice.device)) * starts[..., None]
    order = batch.corruption.region_order + sum(moves[..., place].roll(place, dims=1) for place in range(3))
    features = _rows_at(batch.features, order)
    boxes = batch.boxes
    if options.ifrs_boxes == "move":
        boxes = boxes.gather(1, order[..., None].expand_as(boxes))
    shuffled = starts | starts.roll(1, dims=1) | starts.roll(2, dims=1)
    corruption = dataclasses.replace(batch.corruption, region_order=order, shuffled_regions=shuffled)
    return dataclasses.replace(batch, features=features, boxes=boxes, corruption=corruption)


@cache
def _permutations(device: torch.device) -> Tensor:
    """int64 [5, 3], copied to a device once: a copy a step would make the host wait for it."""
    return torch.tensor(PERMUTATIONS, device=device)


def draw_hard_negatives(
    own: Tensor, hard_negatives: Tensor, chances: Tensor, context: Context
) -> tuple[Tensor, Tensor, Tensor]:
    """The hard negatives int64 [B, K] of int64 [B] `own`, -1 beyond the last; the place [B] drawn; their number [B]."""
    candidates = hard_negatives[own, context.options.itm_skip_nearest :].long()
    counts = (candidates >= 0).sum(1)
    return candidates, (chances * counts).long().clamp(max=max(candidates.shape[1] - 1, 0)), counts


class SampledImages(NamedTuple):
    """The images that B texts get."""

    rows: Tensor
    """int64 [B]."""
    matched: Tensor
    """bool [B]: the image is the text's own."""
    metrics: dict[str, MeanMetric]
    """What there is to know of the choice, none where all images were at hand."""


def replace_images(
    keys: Tensor,
    own: Tensor,
    hard_negatives: Tensor | None,
    num_images: int,
    context: Context,
    at_hand: Tensor | None = None,
) -> SampledImages:
    """Gives half of the texts another image: a hard negative, or a random one where there is none (paper section 3.3).

    keys, own: int64 [B]; hard_negatives: int [N, K], -1 beyond an image's last. at_hand: int64 [n], ascending, the
    images that may be given, own ones among them; None for all. A hard negative that is not at hand is replaced by the
    next one in its list that is, the first following on the last, or else by a random image.
    """
    options = context.options
    fate, which_hard, which_random, is_hard = context.draw(keys, IMAGE_REPLACEMENT, 4).unbind(1)
    rows = other_images(own, which_random, num_images, at_hand)
    metrics = {}
    if options.itm_negatives == "hard" and hard_negatives is not None:
        candidates, place, counts = draw_hard_negatives(own, hard_negatives, which_hard, context)
        wanted = (counts > 0) & (is_hard < options.itm_hard_probability)
        usable = wanted
        if candidates.shape[1]:
            if at_hand is not None:
                is_at_hand = torch.zeros(num_images, dtype=torch.bool).index_fill(0, at_hand, True)
                is_at_hand = (candidates >= 0) & is_at_hand[candidates.clamp(min=0)]
                here = is_at_hand.gather(1, place[:, None]).squeeze(1)
                metrics["data/hard_negatives_at_hand"] = MeanMetric.of(here, wanted & (fate < options.itm_probability))
                place, found = _next_at_hand(candidates, place, is_at_hand)
                usable = wanted & found
            rows = torch.where(usable, candidates.gather(1, place[:, None]).squeeze(1), rows)
    matched = (fate >= options.itm_probability) | ((num_images if at_hand is None else len(at_hand)) < 2)
    return SampledImages(torch.where(matched, own, rows), matched, metrics)


def other_images(own: Tensor, chances: Tensor, num_images: int, at_hand: Tensor | None = None) -> Tensor:
    """int64 [B]: a random image of the others, all or those at hand; skipping one's own keeps the choice even."""
    own_place = own if at_hand is None else torch.searchsorted(at_hand, own)
    places = (chances * max((num_images if at_hand is None else len(at_hand)) - 1, 1)).long()
    places = places + (places >= own_place).long()
    return places if at_hand is None else at_hand[places.clamp(max=len(at_hand) - 1)]


def _next_at_hand(candidates: Tensor, places: Tensor, is_at_hand: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [B]: the first place from `places` on whose candidate is at hand; bool [B]: whether there is any.

    candidates: int64 [B, K], -1 beyond the last; is_at_hand: bool [B, K].
    """
    counts = (candidates >= 0).sum(1, keepdim=True).clamp(min=1)
    behind = (torch.arange(candidates.shape[1]) - places[:, None]) % counts
    behind = torch.where(is_at_hand, behind, candidates.shape[1])
    return behind.argmin(1), is_at_hand.any(1)


def _replace(pairs: Tensor, table: PairSource, context: Context) -> SampledPairs:
    keys, own = table.keys[pairs], table.images[pairs]
    found = replace_images(keys, own, table.hard_negatives, table.num_images, context, table.images_at_hand)
    return SampledPairs(pairs=pairs, images=found.rows, matched=found.matched, metrics=found.metrics)


MASK_TOKENS = Corruption(name="mask tokens", order=2, apply=mask_tokens)
MASK_REGIONS = Corruption(name="mask regions", order=2, apply=mask_regions, num_random_regions=NUM_RANDOM_REGIONS)
SHUFFLE_REGIONS = Corruption(name="shuffle regions", order=1, apply=shuffle_regions)
REPLACE_IMAGES = PairSampler(choose=_replace)
