"""Buffers that batches are read into, reused since fresh pages cost more time than the reading.

B pairs, R regions, D random regions, F feature width.
"""

from dataclasses import dataclass, fields
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from msp_ds.records import IGNORE


@dataclass(frozen=True, kw_only=True)
class BatchBuffers:
    """The large tensors of a batch. Reading into them overwrites the batch that was read into them before."""

    features: Tensor
    """float16 [B, R, F]."""
    boxes: Tensor
    """float32 [B, R, 4]."""
    object_ids: Tensor
    """int64 [B, R]."""
    object_scores: Tensor
    """float32 [B, R]."""
    attribute_ids: Tensor
    """int64 [B, R]."""
    attribute_scores: Tensor
    """float32 [B, R]."""
    region_mask: Tensor
    """bool [B, R]."""
    random_features: Tensor
    """float16 [B, D, F]."""

    @classmethod
    def allocate(
        cls, batch_size: int, *, num_regions: int, num_random_regions: int, feature_width: int, pinned: bool = False
    ) -> Self:
        """Allocate buffers for `batch_size` pairs; pinned: in page-locked memory, for copies that do not block."""
        regions = (batch_size, num_regions)
        shapes = {
            "features": ((*regions, feature_width), torch.float16),
            "boxes": ((*regions, 4), torch.float32),
            "object_ids": (regions, torch.int64),
            "object_scores": (regions, torch.float32),
            "attribute_ids": (regions, torch.int64),
            "attribute_scores": (regions, torch.float32),
            "region_mask": (regions, torch.bool),
            "random_features": ((batch_size, num_random_regions, feature_width), torch.float16),
        }
        return cls(
            **{name: torch.empty(*shape, dtype=kind, pin_memory=pinned) for name, (shape, kind) in shapes.items()}
        )

    def rows(self, start: int, end: int) -> Self:
        """Return a view of the pairs `start` to `end` - 1."""
        return type(self)(**{name: tensor[start:end] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the buffers by their names in Batch."""
        return {item.name: cast(Tensor, getattr(self, item.name)) for item in fields(self)}

    def fill_regions(self, region_counts: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """Fill all fields but the features, which are read into their buffer directly.

        region_counts: int [B]. columns: the values of each field, float32 [sum, 4] or any [sum], for the regions of all
        pairs one after the other. Slots beyond an image's last region become 0, IGNORE and False.
        """
        # numpy, since torch would wake its threads for these small arrays.
        mask = self.region_mask.numpy()
        np.less(np.arange(mask.shape[1]), region_counts[:, None], out=mask)
        full = bool(mask.all())
        for name, values in columns.items():
            target = cast(Tensor, getattr(self, name)).numpy()
            if full:
                target[:] = values.reshape(target.shape)
            else:
                target.fill(IGNORE if name.endswith("_ids") else 0)
                target[mask] = values
