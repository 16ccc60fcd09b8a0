"""Grades of retrieval in both directions, from a matrix of scores.

N images, M captions. Image retrieval (IR): each caption ranks all N images, one of which is its own. Text retrieval
(TR): each image ranks all M captions and counts by the best of its own. Ranks start at 0. Ties are settled
pessimistically, everything that scores the same comes first: a scorer that says the same of every pair finds nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from msp_ds.errors import InputError


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _check_matrix(scores: Tensor, image_of_caption: Tensor) -> None:
    num_images, num_captions = scores.shape if scores.ndim == 2 else (0, 0)
    _check(
        num_images > 0 and image_of_caption.shape == (num_captions,),
        f"retrieval needs a score for each image and caption, got scores of shape {tuple(scores.shape)} for "
        f"{image_of_caption.numel()} captions; score every pair and pass [images, captions]",
    )
    lost = int(scores.isnan().sum())
    _check(lost == 0, f"{lost} of {scores.numel()} retrieval scores are NaN; score those pairs again")
    _captions_per_image(image_of_caption, num_images=num_images)


def _captions_per_image(image_of_caption: Tensor, *, num_images: int) -> Tensor:
    """int64 [N], all positive."""
    wrong = ((image_of_caption < 0) | (image_of_caption >= num_images)).nonzero().flatten()
    _check(
        wrong.numel() == 0,
        f"caption {wrong[:1].tolist()} names an image outside the {num_images} of the score matrix; "
        "score the captions against all images of the split",
    )
    counts = torch.bincount(image_of_caption, minlength=num_images)
    bare = (counts == 0).nonzero().flatten()
    _check(
        bare.numel() == 0,
        f"{bare.numel()} of {num_images} images have no caption, the first is row {bare[:1].tolist()}; "
        "leave them out of the score matrix",
    )
    return counts


def ranks_of_images(scores: Tensor, image_of_caption: Tensor) -> Tensor:
    """How many images each caption ranks before its own: int64 [M], ties ahead.

    scores: float32 [N, M], higher fits better. image_of_caption: int64 [M], the row of each caption's image.

    Raises InputError for NaN scores, shapes that do not match and images without captions.
    """
    _check_matrix(scores, image_of_caption)
    own = scores.gather(0, image_of_caption[None])  # [1, M]
    return (scores >= own).sum(dim=0) - 1


def ranks_of_captions(scores: Tensor, image_of_caption: Tensor) -> Tensor:
    """How many captions of other images each image ranks before the best of its own: int64 [N], ties ahead.

    Arguments and errors as ranks_of_images.
    """
    _check_matrix(scores, image_of_caption)
    own = image_of_caption[None] == torch.arange(len(scores), device=scores.device)[:, None]  # bool [N, M]
    best = scores.masked_fill(~own, -math.inf).amax(dim=1, keepdim=True)  # [N, 1]
    return ((scores >= best) & ~own).sum(dim=1)


def recall_at(ranks: Tensor, k: int) -> float:
    """Share of int64 `ranks` below k, in percent."""
    return 100.0 * float((ranks < k).double().mean())


def median_rank(ranks: Tensor) -> int:
    """floor(median + 1) of int64 `ranks`, the median of an even number lying midway: the best possible is 1."""
    return math.floor(float(ranks.double().quantile(0.5)) + 1)


def mean_rank(ranks: Tensor) -> float:
    """Mean + 1 of int64 `ranks`: the best possible is 1."""
    return float(ranks.double().mean()) + 1


def chance_recall(image_of_caption: Tensor, *, num_images: int, k: int) -> tuple[float, float]:
    """(image retrieval, text retrieval): the recall at k that a random order has on average, in percent.

    An image finds none of its m captions among the first k of M with chance C(M - m, k) / C(M, k).

    image_of_caption: int64 [M].
    """
    counts = _captions_per_image(image_of_caption, num_images=num_images)
    num_captions = image_of_caption.numel()
    drawn = min(k, num_captions)
    orders = math.comb(num_captions, drawn)
    misses = sum(
        number * (math.comb(num_captions - size, drawn) / orders) for size, number in Counter(counts.tolist()).items()
    )
    return 100.0 * min(k / num_images, 1.0), 100.0 * (1 - misses / num_images)


@dataclass(frozen=True, kw_only=True)
class DirectionGrades:
    """The grades of one direction; recalls in percent, ranks from 1."""

    recall_1: float
    recall_5: float
    recall_10: float
    median_rank: int
    mean_rank: float
    chance_1: float
    """What recall_1 would be on average if the order were random; so the next two."""
    chance_5: float
    chance_10: float


@dataclass(frozen=True, kw_only=True)
class RetrievalGrades:
    """The grades of both directions."""

    image_retrieval: DirectionGrades
    """IR: a caption looks for its image."""
    text_retrieval: DirectionGrades
    """TR: an image looks for one of its captions."""
    num_images: int
    num_captions: int

    def flat(self) -> dict[str, float]:
        """All recalls, ranks and chances by name: `ir/recall_1` ... `tr/chance_10`."""
        directions = {"ir": self.image_retrieval, "tr": self.text_retrieval}
        return {f"{key}/{name}": value for key, grades in directions.items() for name, value in asdict(grades).items()}


def grade_retrieval(scores: Tensor, image_of_caption: Tensor) -> RetrievalGrades:
    """The grades of float32 [N, M] scores, given int64 [M] rows of the captions' images.

    Raises InputError as ranks_of_images.
    """
    image_ranks = ranks_of_images(scores, image_of_caption)
    caption_ranks = ranks_of_captions(scores, image_of_caption)
    num_images, num_captions = scores.shape
    chances = [chance_recall(image_of_caption, num_images=num_images, k=k) for k in (1, 5, 10)]
    image_chances, caption_chances = zip(*chances, strict=True)
    return RetrievalGrades(
        image_retrieval=_grade_direction(image_ranks, chances=image_chances),
        text_retrieval=_grade_direction(caption_ranks, chances=caption_chances),
        num_images=num_images,
        num_captions=num_captions,
    )


def _grade_direction(ranks: Tensor, *, chances: tuple[float, ...]) -> DirectionGrades:
    chance_1, chance_5, chance_10 = chances
    return DirectionGrades(
        recall_1=recall_at(ranks, 1),
        recall_5=recall_at(ranks, 5),
        recall_10=recall_at(ranks, 10),
        median_rank=median_rank(ranks),
        mean_rank=mean_rank(ranks),
        chance_1=chance_1,
        chance_5=chance_5,
        chance_10=chance_10,
    )
