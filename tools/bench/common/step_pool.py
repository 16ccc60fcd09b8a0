"""Synthetic pairs for timing a training step: lengths like COCO's captions, features and labels by chance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from msp_ds.config import ModelConfig, TaskOptions
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import PAD_TO
from msp_ds.records import Batch, VocabularyTables, no_corruption
from msp_ds.tasks.corruptions import NUM_RANDOM_REGIONS
from msp_ds.tasks.task import Context

PAIRS, REGIONS, LONGEST = 4096, 36, 20
CLS, SEP, MASK = 101, 102, 103


def a_context(config: ModelConfig) -> Context:
    """Names of one or two pieces for every label; the paper's options."""
    maker = torch.Generator().manual_seed(1)
    pieces = torch.randint(1000, config.vocab_size, (config.num_objects, 2), generator=maker)
    tables = VocabularyTables(
        vocab_size=config.vocab_size,
        cls_id=CLS,
        sep_id=SEP,
        mask_id=MASK,
        object_pieces=torch.where(torch.rand(pieces.shape, generator=maker) < 0.7, pieces, pieces[:, :1]),
        object_pieces_all=pieces,
        attribute_pieces=torch.randint(1000, config.vocab_size, (config.num_attributes, 1), generator=maker),
        is_function_piece=torch.zeros(config.vocab_size, dtype=torch.bool),
    )
    mean = torch.full((config.feature_width,), 0.5)
    return Context(seed=1, epoch=0, options=TaskOptions(), tables=tables, feature_mean=mean)


def on_device(context: Context, device: torch.device) -> Context:
    """Return the same context with its tensors on a device."""
    tables, mean = context.tables.to(device), context.feature_mean.to(device)
    return dataclasses.replace(context, tables=tables, feature_mean=mean)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The batches that every variant trains on in one round."""

    bucketed: Batch
    """One of our batches: of like length, padded to a multiple of PAD_TO."""
    padded: Batch
    """A random batch of the same pool, padded to LONGEST."""


class Pool:
    """PAIRS pairs, and the batches that they are trained in."""

    def __init__(self, config: ModelConfig, *, batch_size: int) -> None:
        self.config, self.batch_size = config, batch_size
        lengths = 13 + 3 * torch.randn(PAIRS, generator=torch.Generator().manual_seed(7))
        self.lengths = lengths.round().clamp(7, LONGEST).long()
        """int64 [PAIRS]: pieces of each text with [CLS] and [SEP]."""
        keys, slots = torch.arange(PAIRS), (self.lengths + PAD_TO - 1) // PAD_TO * PAD_TO
        self._plain = Order([keys], seed=1, batch_size=batch_size)
        bucketed = Order([keys], seed=1, batch_size=batch_size, lengths=[slots])
        batches = [bucketed.batch(step).pairs for step in range(bucketed.batches_per_epoch)]
        self._by_length = sorted(batches, key=lambda pairs: int(slots[pairs].sum()))
        self.slots = slots

    def draws(self, count: int) -> list[Draw]:
        """`count` of them: ours are spaced evenly from the shortest to the longest."""
        return [
            Draw(bucketed=self.batch(pairs), padded=self.batch(self._plain.batch(place).pairs, LONGEST))
            for place, pairs in enumerate(self.choices(count))
        ]

    def choices(self, count: int) -> list[Tensor]:
        """The pairs, int64 [batch_size], of `count` of our batches, evenly from the shortest to the longest."""
        return [self._by_length[int((place + 0.5) / count * len(self._by_length))] for place in range(count)]

    def mean_slots(self) -> float:
        """Text slots a pair in our batches, padding included."""
        return sum(float(self.slots[pairs].max()) for pairs in self._by_length) / len(self._by_length)

    def batch(self, pairs: Tensor, num_tokens: int | None = None) -> Batch:
        """The batch of some pairs, its texts padded to `num_tokens`, by default as ours are."""
        num_tokens = num_tokens or int(self.slots[pairs].max())
        config, maker = self.config, torch.Generator().manual_seed(int(pairs[0]))
        size, lengths = (len(pairs), REGIONS), self.lengths[pairs][:, None]
        places = torch.arange(num_tokens)
        ids = torch.randint(1000, config.vocab_size, (len(pairs), num_tokens), generator=maker)
        ids = torch.where(places == 0, CLS, torch.where(places == lengths - 1, SEP, ids)) * (places < lengths)
        ends = (places == 0) | (places == lengths - 1)
        positions = torch.where(ends, 1, places + 1) * (places < lengths)
        region_mask = torch.ones(size, dtype=torch.bool)
        return Batch(
            keys=pairs,
            token_ids=ids,
            word_positions=positions,
            token_mask=positions > 0,
            features=torch.rand(*size, config.feature_width, generator=maker).half(),
            boxes=torch.rand(*size, 4, generator=maker).sort(-1).values,
            region_mask=region_mask,
            object_ids=torch.randint(config.num_objects, size, generator=maker),
            object_scores=torch.rand(size, generator=maker),
            attribute_ids=torch.randint(config.num_attributes, size, generator=maker),
            attribute_scores=torch.rand(size, generator=maker),
            random_features=torch.rand(len(pairs), NUM_RANDOM_REGIONS, config.feature_width, generator=maker).half(),
            answer_ids=torch.empty(len(pairs), 0, dtype=torch.int64),
            answer_scores=torch.empty(len(pairs), 0),
            corruption=no_corruption(ids, region_mask),
        )
