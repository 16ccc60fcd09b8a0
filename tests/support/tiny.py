"""A model, a tables and batches small enough to work by hand; values come from a generator of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from msp_ds.config import ModelConfig, TaskOptions
from msp_ds.records import IGNORE, Batch, Encoded, VocabularyTables, no_corruption
from msp_ds.tasks.task import Context

NUM_PIECES, NUM_OBJECTS, NUM_ATTRIBUTES, WIDTH, HIDDEN = 20, 5, 3, 6, 8
PAD, UNK, CLS, SEP, MASK = range(5)

VOCABULARY_TABLES = VocabularyTables(
    vocab_size=NUM_PIECES,
    cls_id=CLS,
    sep_id=SEP,
    mask_id=MASK,
    object_pieces=torch.tensor([[5, -1], [6, 7], [8, -1], [9, -1], [5, 10]]),
    object_pieces_all=torch.tensor([[5, 11, -1], [6, 7, -1], [8, -1, -1], [9, 12, -1], [5, 10, 11]]),
    attribute_pieces=torch.tensor([[13], [14], [15]]),
    is_function_piece=torch.isin(torch.arange(NUM_PIECES), torch.tensor([PAD, UNK, CLS, SEP, MASK, 7, 10])),
)
"""Twenty pieces, 0 to 4 special; five objects and three attributes."""

CONFIG = ModelConfig(
    hidden_size=HIDDEN,
    num_layers=2,
    num_heads=2,
    intermediate_size=16,
    max_positions=32,
    vocab_size=NUM_PIECES,
    feature_width=WIDTH,
    num_objects=NUM_OBJECTS,
    num_attributes=NUM_ATTRIBUTES,
    init_std=0.3,
)
"""Two layers, two heads of four; an init_std that lets every part speak."""

_TEXT_CLS: Any = {"visual_cls": False, "positions": "pieces"}
FAMILY: dict[str, ModelConfig] = {
    "LXMERT-S": CONFIG,
    "LXMERT": dataclasses.replace(CONFIG, language_layers=2, region_layers=1, **_TEXT_CLS),
    "LXMERT with a visual [CLS]": dataclasses.replace(CONFIG, language_layers=1, region_layers=1),
    "single stream": dataclasses.replace(CONFIG, encoder="single-stream", num_layers=3, **_TEXT_CLS),
    "single stream with a visual [CLS]": dataclasses.replace(CONFIG, encoder="single-stream"),
}
"""One small model of each encoder, with and without a visual [CLS]."""

FP32_BOUND = 1e-4
"""How far fp32 results of one small model may lie apart when they are computed in two orders: about a hundred
operations on states of order 1, each of which rounds by 2**-24, leave 1e-5, and no processor leaves ten times that.
Whatever is compared within it differs by far more where something is wrong."""


def rng(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def context(*, seed: int = 1, epoch: int = 0, tables: VocabularyTables = VOCABULARY_TABLES, **options: Any) -> Context:
    """What the tasks may know, with some options other than the default."""
    mean = torch.linspace(0, 1, WIDTH)
    return Context(seed=seed, epoch=epoch, options=TaskOptions(**options), tables=tables, feature_mean=mean)


def texts(lengths: Sequence[int], *, num_tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """[CLS] random words of one piece each [SEP], padded to num_tokens."""
    places, ends = torch.arange(num_tokens), torch.tensor(lengths)[:, None]
    words = torch.randint(5, NUM_PIECES, (len(lengths), num_tokens), generator=rng(seed))
    words = torch.where(places == 0, CLS, torch.where(places == ends - 1, SEP, words))
    positions = torch.where((places == 0) | (places == ends - 1), 1, places + 1)
    inside = places < ends
    return {"token_ids": words * inside, "word_positions": positions * inside, "token_mask": inside}


def images(counts: Sequence[int], *, num_regions: int, width: int = WIDTH, seed: int = 0) -> dict[str, Tensor]:
    """Images of `counts` regions with random features, boxes and labels, a fifth of them without a label."""
    here, maker = torch.arange(num_regions) < torch.tensor(counts)[:, None], rng(seed)
    size = (len(counts), num_regions)
    labels = {}
    for kind, number in (("object", NUM_OBJECTS), ("attribute", NUM_ATTRIBUTES)):
        known = here & (torch.rand(size, generator=maker) < 0.8)
        labels[f"{kind}_ids"] = torch.where(known, torch.randint(number, size, generator=maker), IGNORE)
        labels[f"{kind}_scores"] = torch.rand(size, generator=maker) * known
    corners = torch.rand(*size, 4, generator=maker).sort(-1).values
    features = torch.rand(*size, width, generator=maker).half()
    return {"features": features * here[..., None], "boxes": corners * here[..., None], "region_mask": here, **labels}


def a_batch(lengths: Sequence[int] = (8, 5, 7), counts: Sequence[int] = (6, 4, 5), **changes: Any) -> Batch:
    """Pairs with texts of these lengths and images of so many regions; keyword arguments replace whole fields.

    `num_tokens` and `num_regions` say how far to pad, `seed` which values.
    """
    seed = changes.pop("seed", 0)
    parts = texts(lengths, num_tokens=changes.pop("num_tokens", max(lengths)), seed=seed)
    parts |= images(counts, num_regions=changes.pop("num_regions", max(counts)), seed=seed)
    parts |= {
        "keys": torch.arange(len(lengths)) + 100 * seed,
        "random_features": torch.rand(len(lengths), 4, WIDTH, generator=rng(seed + 1)).half() + 2,
    }
    parts |= {
        "answer_ids": torch.empty(len(lengths), 0, dtype=torch.int64),
        "answer_scores": torch.empty(len(lengths), 0),
    }
    parts |= changes
    return Batch(corruption=no_corruption(parts["token_ids"], parts["region_mask"]), **parts)


def many_pairs(num_pairs: int, *, num_tokens: int = 12, num_regions: int = 36, width: int = 1) -> Batch:
    """Full pairs by the thousand. Slot i of every image holds the feature i + 1, random_regions hold -1."""
    steps = torch.arange(1.0, num_regions + 1)
    whole = {"num_regions": num_regions, "width": width, "seed": 0}
    return a_batch(
        [num_tokens] * num_pairs,
        [num_regions] * num_pairs,
        **images([num_regions] * num_pairs, **whole)
        | {
            "features": steps[None, :, None].expand(num_pairs, -1, width).half(),
            "random_features": torch.full((num_pairs, 4, width), -1.0).half(),
        },
    )


@dataclasses.dataclass
class Pairs:
    """A PairSource of one text a pair."""

    keys: Tensor
    images: Tensor
    num_images: int
    hard_negatives: Tensor | None = None
    local_images: Tensor | None = None
    second_images: Tensor | None = None

    def some_pair_of(self, images: Tensor, chances: Tensor) -> Tensor:
        raise NotImplementedError


def rows(batch: Batch, wanted: Sequence[int]) -> Batch:
    """Some pairs of a batch, in this order."""
    index = torch.tensor(wanted)
    fields = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if item.name != "corruption"}
    parts = {name: value[index] for name, value in fields.items()}
    corruption = {
        item.name: getattr(batch.corruption, item.name)[index] for item in dataclasses.fields(batch.corruption)
    }
    return Batch(corruption=dataclasses.replace(batch.corruption, **corruption), **parts)


def encoded(batch: Batch, *, seed: int = 0) -> Encoded:
    """Random states for a batch, as leaves that gradients can reach."""
    maker, (size, num_tokens) = rng(seed), batch.token_ids.shape
    shapes = {"text": (size, num_tokens), "regions": tuple(batch.region_mask.shape), "pair": (size,)}
    states = {name: torch.randn(*shape, HIDDEN, generator=maker) for name, shape in shapes.items()}
    return Encoded(**{name: state.requires_grad_() for name, state in states.items()})
