"""Features of boxes from feature maps. N boxes, C channels, H and W cells of a map along its sides."""

import torch
from torch import Tensor
from torch.nn import functional as F

_SAMPLES = 7
"""Samples of a box along each side."""
_AT_ONCE = 8
"""Boxes that are pooled at a time: what is read for them fits into a processor's cache."""


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
    return samples.reshape(len(feature_map), len(boxes), _SAMPLES**2).mean(2).T


def roi_pool(feature_map: Tensor, boxes: Tensor, *, stride: int, size: int) -> Tensor:
    """Return Caffe's RoIPool: the maximum of each of size x size bins of each box, [N, C, size, size], channels last.

    A box covers the cells from its rounded first corner to its rounded last, both included. Bins overlap where their
    bounds are within a cell, and a bin beyond the map is 0.

    Args:
        feature_map: [C, H, W].
        boxes: float32 [N, 4] in pixels, x0 y0 x1 y1, inside the picture; a cell has `stride` pixels.
    """
    channels, height, width = feature_map.shape
    # Of height or width + 1 cells at most, since a box at the edge may be rounded up to a cell beyond the map.
    levels = (max(height, width) // size + 2).bit_length()
    maxima = _square_maxima(feature_map, levels)
    x, y = (_bins(boxes[:, axis::2] / stride, side, size) for axis, side in enumerate((width, height)))
    pooled = feature_map.new_empty(len(boxes), size, size, channels)
    for some in range(0, len(boxes), _AT_ONCE):
        rows = slice(some, some + _AT_ONCE)
        _bin_maxima(maxima, (x[0][rows], x[1][rows]), (y[0][rows], y[1][rows]), out=pooled[rows])
    return pooled.permute(0, 3, 1, 2)


def _bins(sides: Tensor, cells: int, size: int) -> tuple[Tensor, Tensor]:
    """Return each bin's first cell and the one after its last, int64 [N, size], of float32 [N, 2] start and end."""
    start, end = (sides + 0.5).floor().unbind(1)  # Caffe rounds 62.5 up, torch.round down to the even number
    bounds = torch.arange(size + 1, device=sides.device) * ((end - start + 1).clamp(min=1) / size)[:, None]
    first, last = (start[:, None] + bounds[:, :-1].floor(), start[:, None] + bounds[:, 1:].ceil())
    return first.clamp(0, cells).long(), last.clamp(0, cells).long()


def _square_maxima(feature_map: Tensor, levels: int) -> Tensor:
    """Return [levels, levels, H, W, C]: at i, j, y, x the maximum of the 2^i rows and 2^j columns from (y, x) on.

    Beyond the map it goes on at the other side; such places are never read.
    """
    maxima = feature_map.new_empty(levels, levels, *feature_map.shape[1:], len(feature_map))
    maxima[0, 0] = feature_map.permute(1, 2, 0)
    for j in range(1, levels):
        torch.maximum(maxima[0, j - 1], maxima[0, j - 1].roll(-(1 << j - 1), 1), out=maxima[0, j])
    for i in range(1, levels):
        torch.maximum(maxima[i - 1], maxima[i - 1].roll(-(1 << i - 1), 1), out=maxima[i])
    return maxima


def _bin_maxima(maxima: Tensor, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], *, out: Tensor) -> None:
    """Fill `out`, [N, size, size, C], with the maximum of each bin, that of the four squares in its corners.

    The sides of the squares are the largest powers of two that fit: they cover the bin, which costs four reads at any
    size.
    """
    levels, _, height, width, channels = maxima.shape
    x_level, y_level = (torch.stack([b - a >= 1 << k for k in range(1, levels)]).sum(0) for a, b in (x, y))
    tables, squares = maxima.view(-1, channels), (y_level[:, :, None] * levels + x_level[:, None]) * height * width
    largest = out.view(-1, channels)
    for corner, (top, left) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        row = (y[1] - (1 << y_level) if top else y[0]).clamp(0, height - 1)
        column = (x[1] - (1 << x_level) if left else x[0]).clamp(0, width - 1)
        found = tables.index_select(0, (squares + row[:, :, None] * width + column[:, None]).flatten())
        torch.maximum(largest if corner else found, found, out=largest)
    is_empty = (y[0] >= y[1])[:, :, None] | (x[0] >= x[1])[:, None]
    out.masked_fill_(is_empty[..., None], 0)
