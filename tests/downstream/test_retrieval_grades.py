"""Retrieval grades agree with numbers worked by hand, with loops, and with chance."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from msp_ds.downstream.intervals import Resampling
from msp_ds.downstream.retrieval_grades import (
    chance_recall,
    direction_ranks,
    grade_retrieval,
    mean_rank,
    median_rank,
    rank_intervals,
    ranks_of_captions,
    ranks_of_images,
    recall_at,
    recall_scores,
    require_captions,
)
from msp_ds.errors import InputError

# Three images; captions 0 and 1 belong to image 0, caption 2 to image 1, captions 3 and 4 to image 2.
OWNERS = torch.tensor([0, 0, 1, 2, 2])
SCORES = torch.tensor(
    [
        [0.9, 0.1, 0.5, 0.5, 0.0],
        [0.2, 0.3, 0.4, 0.6, 0.7],
        [0.1, 0.1, 0.8, 0.5, 0.7],
    ]
)


def looped_ranks(scores: Tensor, owners: Tensor) -> tuple[list[int], list[int]]:
    """Both directions, pair by pair: for each query the worst order that its ties allow."""
    table, owner_of = scores.tolist(), owners.tolist()
    images, captions = range(len(table)), range(len(owner_of))
    image_ranks = [
        sum(
            table[image][caption] >= table[owner_of[caption]][caption] for image in images if image != owner_of[caption]
        )
        for caption in captions
    ]
    caption_ranks = []
    for image in images:
        candidates = []
        for own in captions:
            if owner_of[own] == image:
                ahead = [other for other in captions if table[image][other] >= table[image][own]]
                candidates.append(sum(owner_of[other] != image for other in ahead))
        caption_ranks.append(min(candidates))
    return image_ranks, caption_ranks


def random_problem(seed: int, *, levels: int) -> tuple[Tensor, Tensor]:
    """A 7 x 16 matrix with many ties; every image has a caption."""
    generator = torch.Generator().manual_seed(seed)
    owners = torch.cat([torch.arange(7), torch.randint(0, 7, (9,), generator=generator)])
    owners = owners[torch.randperm(16, generator=generator)]
    return torch.randint(0, levels, (7, 16), generator=generator).float(), owners


def test_each_caption_ranks_the_images() -> None:
    # caption 1: 0.3 is ahead, 0.1 ties; 2: 0.8 and 0.5 are ahead; 3: 0.6 is ahead, 0.5 ties; 4: 0.7 ties
    assert ranks_of_images(SCORES, OWNERS).tolist() == [0, 2, 2, 2, 1]


def test_each_image_ranks_the_captions_by_the_best_of_its_own() -> None:
    # image 0: 0.9 is best of all; image 1: 0.6 and 0.7 beat 0.4; image 2: only 0.8 beats its 0.7
    assert ranks_of_captions(SCORES, OWNERS).tolist() == [0, 2, 1]


def test_ties_among_an_images_own_captions_cost_nothing() -> None:
    assert ranks_of_captions(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([0, 0, 1])).tolist() == [
        0,
        0,
    ]


def test_ties_with_other_images_captions_come_first() -> None:
    assert ranks_of_captions(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1])).tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_ranks_equal_those_of_loops(seed: int, levels: int) -> None:
    scores, owners = random_problem(seed, levels=levels)
    image_ranks, caption_ranks = looped_ranks(scores, owners)
    assert ranks_of_images(scores, owners).tolist() == image_ranks
    assert ranks_of_captions(scores, owners).tolist() == caption_ranks


def test_recall_is_the_percentage_of_ranks_below_k() -> None:
    ranks = torch.tensor([0, 4, 5, 9])
    assert [recall_at(ranks, k) for k in (1, 5, 6, 10)] == [25.0, 50.0, 75.0, 100.0]


@pytest.mark.parametrize(
    ("ranks", "median", "mean"),
    [([0], 1, 1.0), ([0, 1], 1, 1.5), ([0, 2, 9], 3, 14 / 3), ([0, 3, 4, 9], 4, 5.0), ([9, 0, 4, 2], 4, 4.75)],
)
def test_median_and_mean_rank_start_at_one(ranks: list[int], median: int, mean: float) -> None:
    assert median_rank(torch.tensor(ranks)) == median
    assert mean_rank(torch.tensor(ranks)) == pytest.approx(mean)


def test_a_perfect_scorer_finds_everything_first() -> None:
    owners = torch.arange(12).repeat_interleave(5)
    scores = (owners[None] == torch.arange(12)[:, None]).float()
    grades = grade_retrieval(scores, owners)
    for direction in (grades.image_retrieval, grades.text_retrieval):
        assert (direction.recall_1, direction.median_rank, direction.mean_rank) == (100.0, 1, 1.0)


def test_a_constant_scorer_finds_nothing() -> None:
    grades = grade_retrieval(torch.full((12, 60), 0.5), torch.arange(12).repeat_interleave(5))
    assert grades.image_retrieval.recall_10 == 0.0
    assert grades.image_retrieval.mean_rank == 12.0
    assert grades.text_retrieval.recall_10 == 0.0
    assert grades.text_retrieval.mean_rank == 56.0  # the 55 captions of the other images come first


def test_chance_on_flickr30k_is_known() -> None:
    owners = torch.arange(1000).repeat_interleave(5)
    image_chance, text_chance = chance_recall(owners, num_images=1000, k=1)
    assert (image_chance, text_chance) == (pytest.approx(0.1), pytest.approx(0.1))
    # ten draws without replacement, none among the five: product of (4995 - i) / (5000 - i)
    miss = 1.0
    for drawn in range(10):
        miss *= (4995 - drawn) / (5000 - drawn)
    assert chance_recall(owners, num_images=1000, k=10)[1] == pytest.approx(100 * (1 - miss))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_chance_is_the_average_over_all_orders(k: int) -> None:
    owners = torch.tensor([0, 0, 1, 2])
    captions = torch.tensor(list(itertools.permutations(range(4))))  # each row: the caption at each place
    found = [(owners[captions[:, :k]] == image).any(dim=1).double().mean() for image in range(3)]
    image_chance, text_chance = chance_recall(owners, num_images=3, k=k)
    assert image_chance == pytest.approx(100 * min(k, 3) / 3)
    assert text_chance == pytest.approx(100 * float(sum(found)) / 3)


def test_a_random_scorer_has_the_expected_grades() -> None:
    owners = torch.arange(300).repeat_interleave(3)
    scores = torch.rand(300, 900, generator=torch.Generator().manual_seed(0))
    grades = grade_retrieval(scores, owners)
    # four standard errors of a share p of n queries, p = 3.3 %, n = 900 and 300
    assert grades.image_retrieval.recall_10 == pytest.approx(grades.image_retrieval.chance_10, abs=2.4)
    assert grades.text_retrieval.recall_10 == pytest.approx(grades.text_retrieval.chance_10, abs=4.2)


def test_the_grades_of_the_small_matrix_are_those_worked_by_hand() -> None:
    grades = grade_retrieval(SCORES, OWNERS)
    flat = grades.flat()
    assert (grades.num_images, grades.num_captions, len(flat)) == (3, 5, 16)
    assert flat["ir/recall_1"] == pytest.approx(20.0)
    assert (flat["ir/median_rank"], flat["ir/mean_rank"]) == (3, pytest.approx(2.4))
    assert flat["tr/recall_1"] == pytest.approx(100 / 3)
    assert (flat["tr/median_rank"], flat["tr/mean_rank"]) == (2, pytest.approx(2.0))
    assert flat["ir/chance_1"] == pytest.approx(100 / 3)
    assert flat["tr/chance_1"] == pytest.approx(100 * (2 / 5 + 1 / 5 + 2 / 5) / 3)


def test_1000_random_captions_rank_as_in_loops() -> None:
    generator = torch.Generator().manual_seed(5)
    owners = torch.arange(200).repeat_interleave(5)[torch.randperm(1000, generator=generator)]
    scores = torch.randint(0, 50, (200, 1000), generator=generator).float()
    image_ranks, caption_ranks = looped_ranks(scores, owners)
    grades = grade_retrieval(scores, owners)
    for direction, ranks in ((grades.image_retrieval, image_ranks), (grades.text_retrieval, caption_ranks)):
        expected = [100 * sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10)]
        assert [direction.recall_1, direction.recall_5, direction.recall_10] == expected
        assert direction.median_rank == int(statistics.median(ranks) + 1)
        assert direction.mean_rank == sum(ranks) / len(ranks) + 1


def test_the_first_caption_protocol_ranks_one_caption_an_image() -> None:
    # of the small matrix the captions 0, 2 and 3 are left; image 1 finds 0.4 behind 0.6, image 2 0.5 behind 0.8
    image_ranks, caption_ranks = direction_ranks(SCORES, OWNERS, protocol="first-caption")
    assert image_ranks.tolist() == [0, 2, 2, 2, 1]  # unchanged
    assert caption_ranks.tolist() == [0, 1, 1]
    grades = grade_retrieval(SCORES, OWNERS, protocol="first-caption")
    assert (grades.protocol, grades.num_captions) == ("first-caption", 5)
    assert grades.text_retrieval.chance_1 == pytest.approx(100 / 3)
    assert grade_retrieval(SCORES, OWNERS).protocol == "standard"


def test_the_first_caption_is_the_first_column_in_any_order() -> None:
    owners = torch.tensor([1, 0, 1, 0])
    scores = torch.tensor([[1.0, 2.0, 0.0, 9.0], [1.0, 0.0, 9.0, 0.0]])
    # columns 1 and 0: image 0 ranks its 2.0 before 1.0, image 1 its 1.0 before 0.0
    assert direction_ranks(scores, owners, protocol="first-caption")[1].tolist() == [0, 0]
    assert direction_ranks(scores.flip(1), owners.flip(0), protocol="first-caption")[1].tolist() == [0, 0]


def test_an_image_with_four_captions_is_named() -> None:
    owners = torch.arange(3).repeat_interleave(5)
    require_captions(owners, num_images=3, each=5)
    names = ["f30k-7", "f30k-8", "f30k-9"]
    with pytest.raises(InputError, match=r"1 of 3 images do not have 5 captions: f30k-8 has 4; score"):
        require_captions(torch.cat([owners[:9], owners[10:]]), num_images=3, each=5, image_ids=names)
    with pytest.raises(
        InputError, match=r"3 of 4 images do not have 1 captions: row 0 has 2, row 2 has 2, row 3 has 0"
    ):
        require_captions(OWNERS, num_images=4, each=1)
    with pytest.raises(InputError, match="names an image outside the 1"):
        require_captions(torch.tensor([-1]), num_images=1, each=1)


def test_recalls_are_scored_by_image() -> None:
    scores = recall_scores(ranks_of_images(SCORES, OWNERS), OWNERS)
    assert {name: score.percent for name, score in scores.items()} == {
        "recall_1": 20.0,
        "recall_5": 100.0,
        "recall_10": 100.0,
    }
    # images draw 1 of 2, 0 of 1 and 0 of 2: between the first never drawn and nothing but it
    assert scores["recall_1"].interval(Resampling()) == (0.0, pytest.approx(50.0, abs=11))


def test_rank_intervals_lie_around_the_ranks() -> None:
    generator = torch.Generator().manual_seed(1)
    units = torch.arange(300).repeat_interleave(torch.randint(1, 4, (300,), generator=generator))
    ranks = torch.randint(0, 100, (len(units),), generator=generator)
    intervals = rank_intervals(ranks, units, Resampling())
    # independent ranks of deviation 28.9; that of a median of a uniform distribution is 100 / (2 sqrt(n))
    mean, median = intervals["mean_rank"], intervals["median_rank"]
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * 28.9 / len(units) ** 0.5, rel=0.15)
    assert mean.low < mean_rank(ranks) < mean.high
    assert median.high - median.low == pytest.approx(2 * 1.96 * 50 / len(units) ** 0.5, rel=0.3)
    assert median.low < median_rank(ranks) < median.high


def test_infinite_scores_rank_like_any_other() -> None:
    scores = torch.tensor([[-torch.inf, 0.0], [0.0, torch.inf]])
    assert ranks_of_captions(scores, torch.tensor([0, 1])).tolist() == [1, 0]


@pytest.mark.parametrize("function", [ranks_of_images, ranks_of_captions, grade_retrieval])
@pytest.mark.parametrize(
    ("scores", "owners", "part"),
    [
        (torch.tensor([[0.0, torch.nan]]), [0, 0], "1 of 2 retrieval scores are NaN"),
        (torch.zeros(3, 2), [0, 2], "1 of 3 images have no caption, the first is row \\[1\\]"),
        (torch.zeros(2, 2), [0, 2], "caption \\[1\\] names an image outside the 2"),
        (torch.zeros(2, 2), [-1, 1], "caption \\[0\\] names an image outside the 2"),
        (torch.zeros(2, 3), [0, 1], "got scores of shape \\(2, 3\\) for 2 captions"),
        (torch.zeros(0, 0), [], "got scores of shape \\(0, 0\\) for 0 captions"),
        (torch.zeros(2), [0, 1], "got scores of shape \\(2,\\) for 2 captions"),
    ],
)
def test_scores_that_cannot_be_graded_are_refused(
    function: Callable[[Tensor, Tensor], object], scores: Tensor, owners: list[int], part: str
) -> None:
    with pytest.raises(InputError, match=part):
        function(scores, torch.tensor(owners, dtype=torch.int64))
