"""Records that all of the package shares: an image's regions, a batch, its corruption, encoded states and metrics.

B pairs of a batch, T text tokens, R regions of an image, D random regions, K answers to a question, F feature width,
H hidden size, V vocabulary, C object classes, A attribute classes, P word pieces of a label's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

IGNORE = -1
"""Value of object_ids and attribute_ids for a region without a label."""


@dataclass(frozen=True, kw_only=True)
class RegionRecord:
    """The R regions that a detector found in one image, with features, boxes and labels."""

    image_id: str
    """Canonical id, for example `coco-391895` or `own-img-2031` (ASCII, no dots: it is also the tar key)."""
    source: str
    """The file and row that the record was read from, for error messages."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    features: np.ndarray
    """float16 [R, F], pooled region features."""
    boxes: np.ndarray
    """float32 [R, 4], x0 y0 x1 y1 in pixels."""
    object_ids: np.ndarray
    """int16 [R], line numbers in the objects vocabulary, IGNORE for a region without a label."""
    object_scores: np.ndarray
    """float32 [R], the detector's confidence in object_ids, 0 to 1."""
    attribute_ids: np.ndarray
    """int16 [R], line numbers in the attributes vocabulary, IGNORE for a region without a label."""
    attribute_scores: np.ndarray
    """float32 [R], the detector's confidence in attribute_ids, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class VocabularyTables:
    """Tables of word pieces: special pieces, the pieces of each label's name, and pieces that are no topic."""

    vocab_size: int
    cls_id: int
    sep_id: int
    mask_id: int
    object_pieces: Tensor
    """int64 [C, P]: word pieces of each object name (first synonym), -1 beyond its end."""
    object_pieces_all: Tensor
    """int64 [C, P']: the same with all synonyms."""
    attribute_pieces: Tensor
    """int64 [A, P]: the same for attribute names."""
    is_function_piece: Tensor
    """bool [V]: punctuation, single characters and stop words, which `topic_words=content` leaves out."""

    def to(self, device: torch.device | str) -> VocabularyTables:
        """Return the tables with their tensors on `device`."""
        return cast(VocabularyTables, _map_tensors(self, lambda tensor: tensor.to(device)))


@dataclass(frozen=True, kw_only=True)
class CorruptionInfo:
    """What was done to a batch. Every field has a neutral value for a clean batch, so none is None."""

    masked_tokens: Tensor
    """bool [B, T]: the piece was chosen for masking, whether it became [MASK], was replaced or stayed."""
    masked_regions: Tensor
    """bool [B, R]: the region's feature was chosen for masking; its box stays."""
    region_order: Tensor
    """int64 [B, R]: slot i holds the feature that belongs to slot region_order[b, i]."""
    shuffled_regions: Tensor
    """bool [B, R]: the slot is part of a shuffled triplet; its own feature may still be there."""
    matched: Tensor
    """bool [B]: the image is the text's own."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B pairs of a text and an image, as the model reads them."""

    keys: Tensor
    """int64 [B]: keys of the pairs, from which their random numbers follow."""
    token_ids: Tensor
    """int64 [B, T]: [CLS] pieces [SEP], then padding (0)."""
    word_positions: Tensor
    """int64 [B, T]: [CLS] and [SEP] 1, pieces of the k-th word k + 2, padding 0."""
    token_mask: Tensor
    """bool [B, T]: False on padding."""
    features: Tensor
    """float16 [B, R, F]."""
    boxes: Tensor
    """float32 [B, R, 4]: x0 y0 x1 y1 as fractions of width and height, 0 to 1."""
    region_mask: Tensor
    """bool [B, R]: False on padding."""
    object_ids: Tensor
    """int64 [B, R], IGNORE without a label."""
    object_scores: Tensor
    """float32 [B, R]: the detector's confidence, 0 to 1."""
    attribute_ids: Tensor
    """int64 [B, R], IGNORE without a label."""
    attribute_scores: Tensor
    """float32 [B, R]: the detector's confidence, 0 to 1."""
    random_features: Tensor
    """float16 [B, D, F]: single regions of D random images, for tasks that replace a region."""
    answer_ids: Tensor
    """int64 [B, K]: a question's answers, IGNORE beyond the last; K is 0 in pre-training."""
    answer_scores: Tensor
    """float32 [B, K]: the score of each answer, 0 to 1."""
    corruption: CorruptionInfo

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`; copies to a GPU do not block, tensors already there are not copied."""
        return cast(Batch, _map_tensors(self, lambda tensor: to_device(tensor, device)))


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The states of an encoded batch."""

    text: Tensor
    """[B, T, H]."""
    regions: Tensor
    """[B, R, H], without the visual [CLS]."""
    pair: Tensor
    """[B, H]: the product of the two pooled [CLS] states; without a visual [CLS], that of the text."""


@dataclass(frozen=True)
class MeanMetric:
    """A sum and a count, additive over batches and ranks; the mean is taken once, at the end."""

    total: Tensor
    """float64 scalar."""
    count: Tensor
    """float64 scalar."""

    @classmethod
    def of(cls, values: Tensor, weights: Tensor | None = None) -> MeanMetric:
        """Return the metric of a tensor of any shape, optionally weighted by a tensor of the same shape."""
        values = values.detach().to(torch.float64)
        if weights is None:
            return cls(values.sum(), torch.full_like(values.sum(), values.numel()))
        weights = weights.detach().to(torch.float64)
        return cls((values * weights).sum(), weights.sum())

    def to(self, device: torch.device) -> MeanMetric:
        """Return the metric on `device`; copies to a GPU do not block."""
        return MeanMetric(to_device(self.total, device), to_device(self.count, device))

    def __add__(self, other: MeanMetric) -> MeanMetric:
        return MeanMetric(self.total + other.total, self.count + other.count)

    def mean(self) -> float:
        """Return total / count; nan where the count is zero."""
        return float(self.total / self.count) if float(self.count) else float("nan")


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of a stage's tasks on one batch."""

    total: Tensor
    """float32 scalar: the weighted sum that is minimised."""
    metrics: dict[str, MeanMetric] = field(default_factory=dict)
    """`loss/mlm`, `accuracy/mlm`, ..."""


def no_corruption(token_ids: Tensor, region_mask: Tensor) -> CorruptionInfo:
    """Return the CorruptionInfo of a clean batch with int64 token_ids [B, T] and bool region_mask [B, R]."""
    batch_size, num_regions = region_mask.shape
    device = token_ids.device
    return CorruptionInfo(
        masked_tokens=torch.zeros_like(token_ids, dtype=torch.bool),
        masked_regions=torch.zeros_like(region_mask),
        # Not `expand`: memory that elements share cannot be pinned.
        region_order=torch.arange(num_regions, device=device).repeat(batch_size, 1),
        shuffled_regions=torch.zeros_like(region_mask),
        matched=torch.ones(batch_size, dtype=torch.bool, device=device),
    )


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return `tensor` on `device`. Copies to a GPU come from page-locked memory and do not block; others do."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)  # the host could otherwise read the values before they arrive
    return (tensor.pin_memory() if tensor.device.type == "cpu" else tensor).to(device, non_blocking=True)


def record_stream(value: Batch | MeanMetric, stream: torch.cuda.Stream) -> None:
    """Tell the allocator of a GPU that `stream` uses tensors that were allocated on another stream."""

    def note(tensor: Tensor) -> Tensor:
        tensor.record_stream(stream)
        return tensor

    _map_tensors(value, note)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Copy a dataclass of tensors, and of dataclasses of tensors, with each tensor changed."""
    changed = {}
    for item in dataclasses.fields(value):
        part = getattr(value, item.name)
        if isinstance(part, Tensor):
            changed[item.name] = change(part)
        elif dataclasses.is_dataclass(part):
            changed[item.name] = _map_tensors(part, change)
    return dataclasses.replace(value, **changed)
