"""Grades of retrieval in both directions, from a matrix of scores.

N images, M captions. Image retrieval (IR): each caption ranks all N images, one of which is its own. Text retrieval
(TR): each image ranks all M captions and counts by the best of its own. Ranks start at 0. Ties are
broken against the model: equal scores come first, so that a model that gives every pair the same score finds nothing.

With the protocol `first-caption`, text retrieval ranks only the first caption of each image, N instead of M, as the
paper's released code does. Its numbers cannot be compared with those of the standard protocol.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from msp_ds.downstream.intervals import Floats, Interval, Resampling, median_rank_of_kinds, ratio
from msp_ds.downstream.score import Score
from msp_ds.errors import InputError
from msp_ds.preparation.sources.questions import shown_ids

RetrievalProtocol = Literal["standard", "first-caption"]
"""Which captions text retrieval ranks: all, or the first of each image."""

RECALLS = (1, 5, 10)


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


def _counts(image_of_caption: Tensor, *, num_images: int) -> Tensor:
    """int64 [N]: the captions of each image. Raises InputError for captions of other images."""
    wrong = ((image_of_caption < 0) | (image_of_caption >= num_images)).nonzero().flatten()
    _check(
        wrong.numel() == 0,
        f"caption {wrong[:1].tolist()} names an image outside the {num_images} of the score matrix; "
        "score the captions against all images of the split",
    )
    return torch.bincount(image_of_caption, minlength=num_images)


def _captions_per_image(image_of_caption: Tensor, *, num_images: int) -> Tensor:
    """int64 [N], all positive."""
    counts = _counts(image_of_caption, num_images=num_images)
    bare = (counts == 0).nonzero().flatten()
    _check(
        bare.numel() == 0,
        f"{bare.numel()} of {num_images} images have no caption, the first is row {bare[:1].tolist()}; "
        "leave them out of the score matrix",
    )
    return counts


def ranks_of_images(scores: Tensor, image_of_caption: Tensor) -> Tensor:
    """Return how many images each caption ranks before its own: int64 [M], ties ahead.

    scores: float32 [N, M], higher fits better. image_of_caption: int64 [M], the row of each caption's image.

    Raises InputError for NaN scores, shapes that do not match and images without captions.
    """
    _check_matrix(scores, image_of_caption)
    own = scores.gather(0, image_of_caption[None])  # [1, M]
    return (scores >= own).sum(dim=0) - 1


def ranks_of_captions(scores: Tensor, image_of_caption: Tensor) -> Tensor:
    """Return how many captions of other images each image ranks before the best of its own: int64 [N], ties ahead.

    Arguments and errors as ranks_of_images.
    """
    _check_matrix(scores, image_of_caption)
    own = image_of_caption[None] == torch.arange(len(scores), device=scores.device)[:, None]  # bool [N, M]
    best = scores.masked_fill(~own, -math.inf).amax(dim=1, keepdim=True)  # [N, 1]
    return ((scores >= best) & ~own).sum(dim=1)


def recall_at(ranks: Tensor, k: int) -> float:
    """Return the percentage of int64 `ranks` below k."""
    return 100.0 * float((ranks < k).double().mean())


def median_rank(ranks: Tensor) -> int:
    """Return floor(median + 1) of int64 `ranks`; the best possible is 1."""
    return math.floor(float(ranks.double().quantile(0.5)) + 1)


def mean_rank(ranks: Tensor) -> float:
    """Return mean + 1 of int64 `ranks`; the best possible is 1."""
    return float(ranks.double().mean()) + 1


def chance_recall(image_of_caption: Tensor, *, num_images: int, k: int) -> tuple[float, float]:
    """Return the mean recall at k of a random order, in percent, of image and of text retrieval.

    An image finds none of its m captions among the first k of M with probability C(M - m, k) / C(M, k).

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
    chance_1: float  # recall_1 of a random order, on average
    chance_5: float  # recall_5 of a random order, on average
    chance_10: float  # recall_10 of a random order, on average


@dataclass(frozen=True, kw_only=True)
class RetrievalGrades:
    """The grades of both directions."""

    image_retrieval: DirectionGrades  # IR: a caption looks for its image
    text_retrieval: DirectionGrades  # TR: an image looks for one of its captions
    num_images: int
    num_captions: int
    protocol: RetrievalProtocol = "standard"

    def flat(self) -> dict[str, float]:
        """Return all recalls, ranks and chances by name: `ir/recall_1` ... `tr/chance_10`."""
        directions = {"ir": self.image_retrieval, "tr": self.text_retrieval}
        return {f"{key}/{name}": value for key, grades in directions.items() for name, value in asdict(grades).items()}


def require_captions(
    image_of_caption: Tensor, *, num_images: int, each: int, image_ids: Sequence[str] | None = None
) -> None:
    """Check that every image has `each` captions; raises InputError that names the images with fewer or more.

    image_of_caption: int64 [M]. image_ids: names of the N images for the message; by default their rows.
    """
    counts = _counts(image_of_caption, num_images=num_images)
    wrong = (counts != each).nonzero().flatten().tolist()
    named = [f"{image_ids[row] if image_ids else f'row {row}'} has {int(counts[row])}" for row in wrong]
    _check(
        not wrong,
        f"{len(wrong)} of {num_images} images do not have {each} captions: {shown_ids(named)}; "
        "score them with as many, or ask for fewer captions an image",
    )


def direction_ranks(
    scores: Tensor, image_of_caption: Tensor, *, protocol: RetrievalProtocol = "standard"
) -> tuple[Tensor, Tensor]:
    """Return the ranks of images for each caption, int64 [M], and of captions for each image, int64 [N].

    Arguments and errors as ranks_of_images.
    """
    image_ranks = ranks_of_images(scores, image_of_caption)
    if protocol == "first-caption":
        scores = scores[:, _first_captions(image_of_caption, num_images=len(scores))]
        image_of_caption = torch.arange(len(scores), device=scores.device)
    return image_ranks, ranks_of_captions(scores, image_of_caption)


def _first_captions(image_of_caption: Tensor, *, num_images: int) -> Tensor:
    """int64 [N]: the first column of each image, all of which have one."""
    places = torch.arange(len(image_of_caption), device=image_of_caption.device)
    after_all = torch.full((num_images,), len(places), device=places.device)
    return after_all.scatter_reduce(0, image_of_caption, places, reduce="amin")


def grade_retrieval(
    scores: Tensor, image_of_caption: Tensor, *, protocol: RetrievalProtocol = "standard"
) -> RetrievalGrades:
    """Return the grades of float32 [N, M] scores; image_of_caption: int64 [M], the row of each caption's image.

    Raises: InputError as ranks_of_images.
    """
    image_ranks, caption_ranks = direction_ranks(scores, image_of_caption, protocol=protocol)
    num_images, num_captions = scores.shape
    ranked = image_of_caption if protocol == "standard" else torch.arange(num_images)
    return RetrievalGrades(
        image_retrieval=_grade_direction(
            image_ranks, chances=[chance_recall(image_of_caption, num_images=num_images, k=k)[0] for k in RECALLS]
        ),
        text_retrieval=_grade_direction(
            caption_ranks, chances=[chance_recall(ranked, num_images=num_images, k=k)[1] for k in RECALLS]
        ),
        num_images=num_images,
        num_captions=num_captions,
        protocol=protocol,
    )


def recall_scores(ranks: Tensor, units: Tensor) -> dict[str, Score]:
    """Return `recall_1`, `recall_5` and `recall_10` of one direction, with the values that they are means of.

    ranks: int64 [n]; units: int64 [n], the image that each query belongs to, which a resample draws as a whole.
    """
    found = {f"recall_{k}": (ranks < k).double().tolist() for k in RECALLS}
    return {name: Score(values=tuple(values), units=units.cpu().numpy()) for name, values in found.items()}


def rank_intervals(ranks: Tensor, units: Tensor, resampling: Resampling) -> dict[str, Interval]:
    """Return the 95 % bootstrap intervals of one direction's `median_rank` and `mean_rank` (see recall_scores)."""
    by_image = _rows_of_ranks(ranks, units)
    sums = np.stack([by_image.clip(min=0).sum(axis=1), (by_image >= 0).sum(axis=1)], axis=1)
    low, high = resampling.of(sums, ratio)
    return {"median_rank": resampling.of(by_image, median_rank_of_kinds), "mean_rank": Interval(low + 1, high + 1)}


def recall_intervals(
    scores: Tensor, image_of_caption: Tensor, *, protocol: RetrievalProtocol, resampling: Resampling
) -> dict[str, Interval]:
    """Return the 95 % bootstrap intervals of both directions over images: `ir/recall_1` ... `tr/mean_rank`.

    Arguments and errors as grade_retrieval.
    """
    image_ranks, caption_ranks = direction_ranks(scores, image_of_caption, protocol=protocol)
    found: dict[str, Interval] = {}
    for key, ranks, units in (("ir", image_ranks, image_of_caption), ("tr", caption_ranks, torch.arange(len(scores)))):
        recalls = {name: score.interval(resampling) for name, score in recall_scores(ranks, units).items()}
        found |= {
            f"{key}/{name}": value for name, value in (recalls | rank_intervals(ranks, units, resampling)).items()
        }
    return found


def _rows_of_ranks(ranks: Tensor, units: Tensor) -> Floats:
    """float64 [units, most]: the ranks of each unit's queries in ascending order, padded in front with -1."""
    _, places, counts = torch.unique(units, return_inverse=True, return_counts=True)
    order = torch.argsort(places, stable=True)
    within = torch.arange(len(ranks)) - (counts.cumsum(0) - counts)[places[order]]
    rows = torch.full((len(counts), int(counts.max())), -1.0, dtype=torch.float64)
    rows[places[order], within] = ranks[order].double()
    return rows.sort(dim=1).values.numpy()


def _grade_direction(ranks: Tensor, *, chances: Sequence[float]) -> DirectionGrades:
    recalls = {f"recall_{k}": recall_at(ranks, k) for k in RECALLS}
    by_chance = {f"chance_{k}": chance for k, chance in zip(RECALLS, chances, strict=True)}
    return DirectionGrades(**recalls, **by_chance, median_rank=median_rank(ranks), mean_rank=mean_rank(ranks))
