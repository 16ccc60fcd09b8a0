"""Features of boxes from maps, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from msp_ds.regions.pooling import roi_pool


def cells(start: float, end: float, place: int, size: int, length: int) -> range:
    """Caffe's bin `place` of `size` along one axis, in its float32."""
    first, last = (math.floor(side / 16 + 0.5) for side in (start, end))
    step = np.float32(max(last - first + 1, 1)) / np.float32(size)
    low, high = int(np.floor(np.float32(place) * step)), int(np.ceil(np.float32(place + 1) * step))
    return range(min(max(first + low, 0), length), min(max(first + high, 0), length))


def by_definition(feature_map: Tensor, boxes: Tensor, size: int) -> Tensor:
    channels, height, width = feature_map.shape
    pooled = torch.zeros(len(boxes), channels, size, size)
    for box, out in zip(boxes.tolist(), pooled, strict=True):
        for i in range(size):
            for j in range(size):
                rows, columns = cells(box[1], box[3], i, size, height), cells(box[0], box[2], j, size, width)
                if rows and columns:
                    out[:, i, j] = feature_map[:, rows.start : rows.stop, columns.start : columns.stop].amax((1, 2))
    return pooled


@pytest.mark.parametrize(("height", "width"), [(38, 63), (63, 38), (5, 7), (1, 63)])
def test_roi_pool_is_caffes(height: int, width: int) -> None:
    random = torch.Generator().manual_seed(height)
    ends = torch.rand(12, 2, 2, generator=random) * torch.tensor([width, height]) * 16
    anywhere = torch.cat((ends.amin(1), ends.amax(1)), dim=1)
    right, bottom = width * 16.0, height * 16.0
    edges = torch.tensor(
        [[0, 0, right, bottom], [right - 8, bottom - 8, right, bottom], [right / 2 - 8, 0, right / 2 + 8, bottom]]
    )
    boxes, feature_map = torch.cat((anywhere, edges)), torch.randn(3, height, width, generator=random)
    assert torch.equal(roi_pool(feature_map, boxes, stride=16, size=14), by_definition(feature_map, boxes, 14))


def test_a_half_is_rounded_up_and_a_bin_beyond_the_map_is_0() -> None:
    feature_map = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]])
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])  # cells 1 and 2 of a map of two
    assert roi_pool(feature_map, box, stride=16, size=2).tolist() == [[[[-4.0, 0.0], [0.0, 0.0]]]]


def test_no_boxes_give_no_rows() -> None:
    assert roi_pool(torch.ones(3, 2, 2), torch.zeros(0, 4), stride=16, size=14).shape == (0, 3, 14, 14)
