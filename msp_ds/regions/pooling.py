"""Features of boxes from feature maps. N boxes, C channels, H and W cells of a map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SAMPLES = 7
"""Samples of a box along each side."""


def box_means(feature_map: Tensor, boxes: Tensor) -> Tensor:
    """Return the mean of a map over each box, float32 [N, C]: of 7 x 7 bilinear samples, whatever the map's stride.

    Args:
        feature_map: float32 [C, H, W] of the whole picture.
        boxes: float32 [N, 4] as fractions of the picture, x0 y0 x1 y1.
    """
    steps = (torch.arange(_SAMPLES, device=boxes.device) + 0.5) / _SAMPLES
    x = boxes[:, None, 0] + (boxes[:, 2] - boxes[:, 0])[:, None] * steps
    y = boxes[:, None, 1] + (boxes[:, 3] - boxes[:, 1])[:, None] * steps
    shape = (len(boxes), _SAMPLES, _SAMPLES)
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1) * 2 - 1
    rows = grid.reshape(1, len(boxes) * _SAMPLES, _SAMPLES, 2)
    samples = F.grid_sample(feature_map[None], rows, align_corners=False, padding_mode="border")[0]
    return samples.reshape(len(feature_map), len(boxes), -1).mean(2).T
