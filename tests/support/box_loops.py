"""Non-maximum suppression as a plain loop, and boxes to try it on."""

from __future__ import annotations

import torch
from torch import Tensor


def overlap(a: list[float], b: list[float], extra: float = 0.0) -> float:
    wide = max(min(a[2], b[2]) - max(a[0], b[0]) + extra, 0)
    high = max(min(a[3], b[3]) - max(a[1], b[1]) + extra, 0)
    areas = sum((box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b))
    return wide * high / (areas - wide * high)


def loop_nms(boxes: list[list[float]], scores: list[float], threshold: float, extra: float = 0.0) -> list[int]:
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        if all(overlap(boxes[row], boxes[other], extra) <= threshold for other in kept):
            kept.append(row)
    return kept


def crowd(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """float64 boxes close to each other, and scores of which some are equal."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random, dtype=torch.float64) * 60
    sides = torch.rand(count, 2, generator=random, dtype=torch.float64) * 50 + 10
    scores = torch.randint(0, count, (count,), generator=random).double() / count
    return torch.cat((corner, corner + sides), dim=1), scores
