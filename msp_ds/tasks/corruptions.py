"""What is done to the input, as tensor operations on the whole batch (docs/tasks.md, Reading of the paper).

B pairs of a batch, T text tokens, R regions, D random regions, F feature width; a data set has N images, each with up
to K hard negatives. The random numbers of every decision come from Context.draw under a purpose of their own, so that
they depend on nothing but the pair's key and the epoch.
"""

import dataclasses
from functools import cache

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
"""Of the chosen tokens and regions, 80 % are masked and 10 % replaced; 10 % stay as they are, as in BERT."""
REPLACE_PROBABILITY = 0.1
NUM_RANDOM_REGIONS = 4
"""Random regions per pair. 0.54 are used on average; beyond four they repeat."""
PERMUTATIONS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""The five orders of a triplet that change something: region k gets the feature of region PERMUTATIONS[choice, k]."""


def mask_tokens(batch: Batch, context: Context) -> Batch:
    """Choose 15 % of the pieces; 80 % of them become [MASK], 10 % a random piece, 10 % stay. Never [CLS] or [SEP]."""
    tables, num_tokens = context.tables, batch.token_ids.shape[1]
    is_special = (batch.token_ids == tables.cls_id) | (batch.token_ids == tables.sep_id)
    chances = context.draw(batch.keys, TOKEN_CHOSEN, num_tokens + 2)
    # By word, all pieces of a word share a number; word positions start at 2 and are at most the number of tokens + 1.
    by_word = context.options.mlm_unit == "word"
    chances = chances.gather(1, batch.word_positions) if by_word else chances[:, :num_tokens]
    chosen = batch.token_mask & ~is_special & (chances < context.options.token_probability)
    masked, replaced = _masked_and_replaced(chosen, context.draw(batch.keys, TOKEN_FATE, num_tokens))
    other = (context.draw(batch.keys, TOKEN_REPLACEMENT, num_tokens) * tables.vocab_size).long()
    token_ids = torch.where(masked, tables.mask_id, torch.where(replaced, other, batch.token_ids))
    return dataclasses.replace(
        batch, token_ids=token_ids, corruption=dataclasses.replace(batch.corruption, masked_tokens=chosen)
    )


def _masked_and_replaced(chosen: Tensor, fate: Tensor) -> tuple[Tensor, Tensor]:
    """Two bool [B, S] masks: which of the chosen are masked and which are replaced, by random numbers `fate` [B, S]."""
    masked = chosen & (fate < MASK_PROBABILITY)
    replaced = chosen & (fate >= MASK_PROBABILITY) & (fate < MASK_PROBABILITY + REPLACE_PROBABILITY)
    return masked, replaced


def choose_regions(batch: Batch, context: Context) -> Tensor:
    """bool [B, R]: the regions chosen for masking in this epoch, 15 % of each image's."""
    chances = context.draw(batch.keys, REGION_CHOSEN, batch.region_mask.shape[1])
    return batch.region_mask & (chances < context.options.region_probability)


def mask_regions(batch: Batch, context: Context) -> Batch:
    """Give 80 % of the chosen regions a zero feature and 10 % a random region's; 10 % stay. Boxes are never masked."""
    chosen = choose_regions(batch, context)
    masked, replaced = _masked_and_replaced(chosen, context.draw(batch.keys, REGION_FATE, chosen.shape[1]))
    # The k-th replaced region of an image takes its k-th random region.
    which = (replaced.cumsum(1) - 1).clamp(min=0) % batch.random_features.shape[1]
    features = batch.features.masked_fill(masked[..., None], 0.0)
    features = torch.where(replaced[..., None], _gather_rows(batch.random_features, which), features)
    return dataclasses.replace(
        batch, features=features, corruption=dataclasses.replace(batch.corruption, masked_regions=chosen)
    )


def _gather_rows(features: Tensor, index: Tensor) -> Tensor:
    """[B, R, F]: the rows of each pair's `features` [B, D, F] at int64 [B, R] `index`.

    index_select copies whole rows, eight times as fast on a CPU as Tensor.gather, which copies single elements.
    """
    first = torch.arange(len(features), device=index.device)[:, None] * features.shape[1]
    return features.flatten(0, 1).index_select(0, (first + index).flatten()).view(*index.shape, features.shape[2])


def _triplet_starts(allowed: Tensor, chances: Tensor, stride: int, probability: float) -> Tensor:
    """bool [B, R]: the starts of shuffled triplets, chosen among bool [B, R] `allowed` left to right, no overlap."""
    starts = torch.zeros_like(allowed)
    free_from = torch.zeros(len(allowed), dtype=torch.int64, device=allowed.device)
    for start in range(0, allowed.shape[1] - 2, stride):
        hit = allowed[:, start] & (chances[:, start] < probability) & (free_from <= start)
        starts[:, start] = hit
        free_from = torch.where(hit, start + 3, free_from)
    return starts


def shuffle_regions(batch: Batch, context: Context) -> Batch:
    """Shuffle triplets of consecutive features, each start with a probability of 5 %; boxes and text stay.

    Paper section 3.1. Regions chosen for masking are left out, so that MRFR and IFRS never share a target. They are
    left out whether or not MRFR and MOC are trained, so that ablations shuffle the same triplets.
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
    features = _gather_rows(batch.features, order)
    boxes = batch.boxes
    if options.ifrs_boxes == "move":
        boxes = boxes.gather(1, order[..., None].expand_as(boxes))
    shuffled = starts | starts.roll(1, dims=1) | starts.roll(2, dims=1)
    corruption = dataclasses.replace(batch.corruption, region_order=order, shuffled_regions=shuffled)
    return dataclasses.replace(batch, features=features, boxes=boxes, corruption=corruption)


@cache
def _permutations(device: torch.device) -> Tensor:
    """int64 [5, 3], copied to a device once: the host would wait for a copy in every step."""
    return torch.tensor(PERMUTATIONS, device=device)


def draw_hard_negatives(
    own: Tensor, hard_negatives: Tensor, chances: Tensor, context: Context
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a hard negative of each image: candidates int64 [B, K], -1 beyond the last; index [B] drawn; counts [B].

    own: int64 [B], image rows; hard_negatives: int [N, K], -1 beyond an image's last; chances: float32 [B] in [0, 1).
    """
    candidates = hard_negatives[own, context.options.itm_skip_nearest :].long()
    counts = (candidates >= 0).sum(1)
    return candidates, (chances * counts).long().clamp(max=max(candidates.shape[1] - 1, 0)), counts


def replace_images(pairs: Tensor, table: PairSource, context: Context) -> SampledPairs:
    """Give half of the texts another image: a hard negative, or a random image without one (paper section 3.3).

    A hard negative that is not local is replaced by the next one in its list that is, the first following the last,
    or by a random image where none is. The own images of int64 [B] `pairs` are local.
    """
    options, num_images, local_images = context.options, table.num_images, table.local_images
    keys, own = table.keys[pairs], table.images[pairs]
    fate, which_hard, which_random, is_hard = context.draw(keys, IMAGE_REPLACEMENT, 4).unbind(1)
    rows = other_images(own, which_random, num_images, local_images)
    metrics = {}
    if options.itm_negatives == "hard" and table.hard_negatives is not None:
        candidates, place, counts = draw_hard_negatives(own, table.hard_negatives, which_hard, context)
        wanted = (counts > 0) & (is_hard < options.itm_hard_probability)
        usable = wanted
        if candidates.shape[1]:
            if local_images is not None:
                is_local = torch.zeros(num_images, dtype=torch.bool).index_fill(0, local_images, True)
                is_local = (candidates >= 0) & is_local[candidates.clamp(min=0)]
                here = is_local.gather(1, place[:, None]).squeeze(1)
                metrics["data/local_hard_negative_ratio"] = MeanMetric.of(
                    here, wanted & (fate < options.itm_probability)
                )
                place, found = _next_local(candidates, place, is_local)
                usable = wanted & found
            rows = torch.where(usable, candidates.gather(1, place[:, None]).squeeze(1), rows)
    matched = (fate >= options.itm_probability) | ((num_images if local_images is None else len(local_images)) < 2)
    return SampledPairs(pairs=pairs, images=torch.where(matched, own, rows), matched=matched, metrics=metrics)


def other_images(own: Tensor, chances: Tensor, num_images: int, local_images: Tensor | None = None) -> Tensor:
    """int64 [B]: a random other image, of all or of the local ones; every other image is equally likely."""
    own_place = own if local_images is None else torch.searchsorted(local_images, own)
    places = (chances * max((num_images if local_images is None else len(local_images)) - 1, 1)).long()
    places = places + (places >= own_place).long()
    return places if local_images is None else local_images[places.clamp(max=len(local_images) - 1)]


def _next_local(candidates: Tensor, places: Tensor, is_local: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [B]: the first index from `places` on whose candidate is local; bool [B]: whether there is any.

    candidates: int64 [B, K], -1 beyond the last; is_local: bool [B, K].
    """
    counts = (candidates >= 0).sum(1, keepdim=True).clamp(min=1)
    behind = (torch.arange(candidates.shape[1]) - places[:, None]) % counts
    behind = torch.where(is_local, behind, candidates.shape[1])
    return behind.argmin(1), is_local.any(1)


MASK_TOKENS = Corruption(name="mask tokens", order=2, apply=mask_tokens)
MASK_REGIONS = Corruption(name="mask regions", order=2, apply=mask_regions, num_random_regions=NUM_RANDOM_REGIONS)
SHUFFLE_REGIONS = Corruption(name="shuffle regions", order=1, apply=shuffle_regions)
REPLACE_IMAGES = PairSampler(choose=replace_images)
