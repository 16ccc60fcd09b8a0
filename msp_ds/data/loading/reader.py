"""Reads the rows of a shard set into clean batches.

B pairs, T text tokens, R regions, D random regions, F feature width, N images, P pairs of the set, K hard negatives.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.batch_buffers import BatchBuffers
from msp_ds.data.loading.image_files import ImageFiles
from msp_ds.records import Batch, RegionRecord, no_corruption

ReadImages = Callable[[Tensor], Batch]
"""Reads int64 [B] rows of images as Reader.read_images, with a placeholder as their text."""
PAD_TO = 4  # texts are padded to the longest of their batch, rounded up to a multiple of this


class Reader:
    """Reads batches of one shard set; several threads may share it."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.keys: Tensor = torch.from_numpy(shards.pairs.keys)
        """int64 [P]: the key of each pair."""
        self.images: Tensor = torch.from_numpy(shards.pairs.image_rows.astype(np.int64))
        """int64 [P]: each pair's own image row."""
        tokens = torch.from_numpy(np.diff(shards.pairs.offsets))
        self.lengths: Tensor = (tokens + PAD_TO - 1) // PAD_TO * PAD_TO
        """int64 [P]: tokens of each text, rounded up to a multiple of PAD_TO."""
        self.hard_negatives = None if shards.hard_negatives is None else torch.from_numpy(shards.hard_negatives)
        """int32 [N, K], -1 beyond the last of an image, or None."""
        self.num_images = len(shards.keys)
        questions = shards.questions
        self.second_images = None if questions is None else torch.from_numpy(questions.second_images.astype(np.int64))
        """int64 [P], -1 where a pair has one image; None in sets of pre-training."""
        self.local_images: Tensor | None = None
        """int64 [n], ascending: the images for random regions and replaced images, None for all."""
        self.files = ImageFiles(shards)

    def among(self, images: Tensor) -> Self:
        """Return the same reader, whose random images come from int64 [n] `images`, ascending, alone."""
        limited = copy.copy(self)
        limited.local_images = images
        return limited

    def longest(self, pairs: Tensor) -> int:
        """Return the number of text slots of a batch of int64 [B] `pairs`."""
        return int(self.lengths[pairs].max())

    def read(
        self,
        pairs: Tensor,
        *,
        images: Tensor,
        matched: Tensor,
        random_regions: Tensor,
        num_tokens: int | None = None,
        into: BatchBuffers | None = None,
    ) -> Batch:
        """Read the clean batch of int64 [B] `pairs`, each with the image of int64 [B] `images`.

        matched: bool [B], whether that image is the pair's own. random_regions: float32 [B, 2 D] in [0, 1), random
        numbers that select D image rows and D regions in them. num_tokens: T, by default that of the longest text.
        into: buffers for the B images, which the next batch that is read into them overwrites; by default new ones.

        Raises: ShardError when bytes on disk differ from the index.
        """
        token_ids, positions = self.texts(pairs, num_tokens or self.longest(pairs))
        answer_ids, answer_scores = self.answers(pairs)
        into = into or self.buffers(len(pairs), num_random_regions=random_regions.shape[1] // 2)
        self.files.read(images.numpy(), into)
        self.files.read_random_regions(*self._choose_random_regions(random_regions.numpy()), into)
        return Batch(
            keys=self.keys[pairs],
            token_ids=token_ids,
            word_positions=positions,
            token_mask=positions > 0,
            answer_ids=answer_ids,
            answer_scores=answer_scores,
            corruption=dataclasses.replace(no_corruption(token_ids, into.region_mask), matched=matched),
            **into.tensors(),
        )

    def read_images(self, images: Tensor) -> Batch:
        """Read int64 [B] `images`; their text is a placeholder, that of the set's first pair."""
        return self.read(
            torch.zeros_like(images),
            images=images,
            matched=torch.ones(len(images), dtype=torch.bool),
            random_regions=torch.empty(len(images), 0),
        )

    def texts(self, pairs: Tensor, num_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Return int64 [B, T] piece ids and word positions of int64 [B] `pairs`, 0 on padding.

        num_tokens: T, by default that of the longest text.
        """
        rows, table = pairs.numpy(), self.shards.pairs
        starts, ends = table.offsets[rows], table.offsets[rows + 1]
        indices = starts[:, None] + np.arange(num_tokens or (ends - starts).max())
        inside = indices < ends[:, None]
        indices = np.where(inside, indices, 0)
        token_ids = np.where(inside, table.token_ids[indices], 0).astype(np.int64)
        positions = np.where(inside, table.word_positions[indices], 0).astype(np.int64)
        return torch.from_numpy(token_ids), torch.from_numpy(positions)

    def some_pair_of(self, images: Tensor, chances: Tensor) -> Tensor:
        """Return int64 [B]: a pair of each of int64 [B] `images`, chosen by float32 [B] `chances` in [0, 1)."""
        image_rows, pairs = self._by_image
        first, end = torch.searchsorted(image_rows, torch.stack((images, images + 1))).unbind(0)
        return pairs[first + (chances.double() * (end - first)).long()]

    @cached_property
    def _by_image(self) -> tuple[Tensor, Tensor]:
        """int64 [P] image rows, ascending, and int64 [P] their pairs."""
        return torch.sort(self.images, stable=True)

    def answers(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Return int64 [B, K] right answers of int64 [B] `pairs`, IGNORE beyond the last, and float32 [B, K] scores."""
        if self.shards.questions is None:
            return torch.empty(len(pairs), 0, dtype=torch.int64), torch.empty(len(pairs), 0)
        ids, scores = self.shards.questions.right_answers(pairs.numpy())
        return torch.from_numpy(ids), torch.from_numpy(scores)

    def record(self, row: int) -> RegionRecord:
        """Read the image in a row. Raises: ShardError as `ShardSet.unpack`."""
        return self.files.record(row)

    def buffers(self, batch_size: int, *, num_random_regions: int, pinned: bool = False) -> BatchBuffers:
        """Allocate buffers for `batch_size` pairs, each with D = `num_random_regions` random regions."""
        index = self.shards.index
        return BatchBuffers.allocate(
            batch_size,
            num_regions=index.num_regions,
            num_random_regions=num_random_regions,
            feature_width=index.feature_width,
            pinned=pinned,
        )

    def _choose_random_regions(self, chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [B, D] image rows, and int64 [B, D] regions in them, selected by float32 [B, 2 D] `chances`."""
        count = chances.shape[1] // 2
        if self.local_images is None:
            rows = (chances[:, :count] * self.num_images).astype(np.int64)
        else:
            rows = self.local_images.numpy()[(chances[:, :count] * len(self.local_images)).astype(np.int64)]
        regions = self.shards.region_counts[rows]
        # The numbers are exact in float64: a float32 product could round up to the number of regions.
        return rows, (chances[:, count:].astype(np.float64) * regions).astype(np.int64)
