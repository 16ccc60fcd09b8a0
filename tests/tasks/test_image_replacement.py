"""Half of the texts get another image, a hard negative if there is one, and never their own."""

from __future__ import annotations

import pytest
import torch
from tiny import Pairs, context
from torch import Tensor

from msp_ds.records import MeanMetric
from msp_ds.tasks import TASKS
from msp_ds.tasks.corruptions import replace_images
from msp_ds.tasks.task import OWN_IMAGES, pair_sampler

NUM_IMAGES, NUM_PAIRS = 25, 20_000
KEYS = torch.arange(NUM_PAIRS)
OWN = KEYS % NUM_IMAGES
# Image i looks like i+1, i+2, i+3 and i+4; nobody looks like image 0, and only image 2 like image 1.
HARD_NEGATIVES = (torch.arange(NUM_IMAGES)[:, None] + torch.arange(1, 5)).remainder(NUM_IMAGES).int()
HARD_NEGATIVES[0] = -1
HARD_NEGATIVES[1, 1:] = -1


def choose(
    hard_negatives: Tensor | None = HARD_NEGATIVES, *, seed: int = 1, epoch: int = 0, **options: object
) -> tuple[Tensor, Tensor]:
    table = Pairs(KEYS, OWN, NUM_IMAGES, hard_negatives)
    found = replace_images(torch.arange(NUM_PAIRS), table, context(seed=seed, epoch=epoch, **options))
    return found.images, found.matched


def is_even(counts: Tensor, *, limit: float) -> bool:
    """Whether a chi-square test lets these counts pass as draws from an even law."""
    expected = counts.double().mean()
    return bool(((counts - expected) ** 2 / expected).sum() < limit)


def distances(rows: Tensor, matched: Tensor, *, first: int) -> Tensor:
    """How far behind their own image the replacements of images `first` and up lie, modulo the number of images."""
    replaced = ~matched & (first <= OWN)
    return (rows - OWN).remainder(NUM_IMAGES)[replaced]


def test_half_of_the_images_are_replaced() -> None:
    _, matched = choose()
    assert matched.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / NUM_PAIRS**0.5)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_probability_is_an_option(probability: float) -> None:
    rows, matched = choose(itm_probability=probability)
    assert matched.double().mean().item() == 1 - probability
    assert torch.equal(rows == OWN, matched)


@pytest.mark.parametrize("options", [{}, {"itm_negatives": "random"}, {"itm_skip_nearest": 2}])
def test_a_text_keeps_its_own_image_exactly_when_it_matches(options: dict[str, object]) -> None:
    rows, matched = choose(**options)
    assert torch.equal(rows == OWN, matched)
    assert 0 <= int(rows.min()) <= int(rows.max()) < NUM_IMAGES


def test_hard_images_come_evenly_from_the_hard_negatives() -> None:
    counts = torch.bincount(distances(*choose(), first=2), minlength=NUM_IMAGES)
    assert counts.nonzero().flatten().tolist() == [1, 2, 3, 4]
    assert is_even(counts[1:5], limit=16.27)  # 99.9 % point, 3 degrees of freedom


def test_a_short_row_gives_its_only_hard_negative() -> None:
    rows, matched = choose()
    assert set(rows[~matched & (OWN == 1)].tolist()) == {2}


def test_an_image_without_hard_negatives_gets_any_other() -> None:
    rows, matched = choose()
    counts = torch.bincount(rows[~matched & (OWN == 0)], minlength=NUM_IMAGES)
    assert counts[0] == 0
    assert is_even(counts[1:], limit=49.73)  # 23 degrees


@pytest.mark.parametrize(
    ("hard_negatives", "negatives"), [(HARD_NEGATIVES, "random"), (None, "random"), (None, "hard")]
)
def test_random_images_are_even_over_all_others(hard_negatives: Tensor | None, negatives: str) -> None:
    counts = torch.bincount(distances(*choose(hard_negatives, itm_negatives=negatives), first=0), minlength=NUM_IMAGES)
    assert counts[0] == 0
    assert is_even(counts[1:], limit=49.73)


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_some_of_the_hard_negatives_can_be_random_images(probability: float) -> None:
    found = distances(*choose(itm_hard_probability=probability), first=2)
    near = (found <= 4).double().mean().item()  # a random image is one of the four hard negatives in 4 of 24 cases
    assert near == pytest.approx(probability + (1 - probability) * 4 / 24, abs=0.02)  # four standard errors
    assert torch.equal(choose(itm_hard_probability=probability)[1], choose()[1])


def test_beside_hard_images_every_other_image_can_come() -> None:
    rows, matched = choose(itm_hard_probability=0.25)
    assert set(rows[~matched & (OWN == 12)].tolist()) == set(range(NUM_IMAGES)) - {12}


def test_the_nearest_can_be_skipped() -> None:
    found = distances(*choose(itm_skip_nearest=2), first=2)
    assert set(found.tolist()) == {3, 4}


@pytest.mark.parametrize("skipped", [4, 9])
def test_skipping_all_hard_negatives_falls_back_to_random_images(skipped: int) -> None:
    counts = torch.bincount(distances(*choose(itm_skip_nearest=skipped), first=0), minlength=NUM_IMAGES)
    assert is_even(counts[1:], limit=49.73)


def test_skipping_past_a_short_row_falls_back_for_that_image_alone() -> None:
    rows, matched = choose(itm_skip_nearest=1)
    assert len(set(rows[~matched & (OWN == 1)].tolist())) == NUM_IMAGES - 1
    assert set(distances(rows, matched, first=2).tolist()) == {2, 3, 4}


def test_a_single_image_is_never_replaced() -> None:
    keys, own = torch.arange(50), torch.zeros(50, dtype=torch.int64)
    found = replace_images(keys, Pairs(keys, own, 1), context(itm_probability=1.0))
    assert found.matched.all()
    assert not found.images.any()


def test_hard_and_random_negatives_replace_the_same_pairs() -> None:
    assert torch.equal(choose()[1], choose(itm_negatives="random")[1])


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}])
def test_another_epoch_or_seed_changes_the_choice(change: dict[str, int]) -> None:
    agree = (choose()[1] == choose(**change)[1]).double().mean().item()
    assert agree == pytest.approx(0.5, abs=4 * 0.5 / NUM_PAIRS**0.5)


def test_only_itm_hs_chooses_images() -> None:
    assert pair_sampler(list(TASKS.values())) is TASKS["itm_hs"].pair_sampler
    assert pair_sampler([task for name, task in TASKS.items() if name != "itm_hs"]) is OWN_IMAGES


def chosen_locally(local_rows: list[int], **options: object) -> tuple[Tensor, Tensor, dict[str, MeanMetric]]:
    """The choice for the pairs of local images, hard negatives i+1 to i+4 as above."""
    local_images = torch.tensor(local_rows)
    here = torch.isin(OWN, local_images).nonzero().flatten()
    found = replace_images(here, Pairs(KEYS, OWN, NUM_IMAGES, HARD_NEGATIVES, local_images), context(**options))
    return OWN[here], found.images, dict(found.metrics)


def test_a_hard_negative_that_is_elsewhere_is_replaced_by_the_next_that_is_here() -> None:
    # 10 looks like 11 to 14, of which 12 and 13 are here: 11 gives way to 12, and so, beyond the end, does 14.
    # 12 looks like 13 to 16: 14 and 15 give way to 16. 13 has 16 alone. 16 has none, so chance chooses for it.
    own, rows, _ = chosen_locally([10, 12, 13, 16], itm_probability=1.0)
    for image, drawn_once, drawn_thrice in ((10, 13, 12), (12, 13, 16)):
        counts = torch.bincount(rows[own == image], minlength=NUM_IMAGES)
        assert counts.nonzero().flatten().tolist() == sorted((drawn_once, drawn_thrice))
        probability = int(counts[drawn_once]) / int(counts.sum())
        assert probability == pytest.approx(1 / 4, abs=4 * (3 / 16 / int(counts.sum())) ** 0.5)
    assert set(rows[own == 13].tolist()) == {16}
    assert set(rows[own == 16].tolist()) == {10, 12, 13}


def test_after_the_last_hard_negative_comes_the_first() -> None:
    # Of 10's hard negatives only 11 is here: 12, 13 and 14 give way to it too.
    own, rows, _ = chosen_locally([5, 10, 11], itm_probability=1.0)
    assert set(rows[own == 10].tolist()) == {11}


def test_the_metric_counts_hard_negatives_that_were_drawn_and_here() -> None:
    # Two in four of 10's and of 12's are here, one of 13's, none of 16's: 5 of 16 in the mean.
    _, _, metrics = chosen_locally([10, 12, 13, 16], itm_probability=1.0)
    metric = metrics["data/local_hard_negative_ratio"]
    assert float(metric.count) == 4 * NUM_PAIRS / NUM_IMAGES
    assert metric.mean() == pytest.approx(5 / 16, abs=4 * (1 / 4 / float(metric.count)) ** 0.5)


def test_random_local_images_come_evenly_and_never_ones_own() -> None:
    own, rows, metrics = chosen_locally([0, 3, 7, 24], itm_probability=1.0, itm_negatives="random")
    assert not metrics
    for image in (0, 3, 7, 24):
        counts = torch.bincount(rows[own == image], minlength=NUM_IMAGES)
        assert set(counts.nonzero().flatten().tolist()) == {0, 3, 7, 24} - {image}
        assert is_even(counts[counts > 0], limit=13.82)  # 99.9 % point, 2 degrees


def test_a_list_of_all_images_changes_nothing() -> None:
    _, rows, _ = chosen_locally(list(range(NUM_IMAGES)))
    assert torch.equal(rows, choose()[0])


def test_an_image_alone_in_its_block_is_never_replaced() -> None:
    own, rows, _ = chosen_locally([9], itm_probability=1.0)
    assert torch.equal(own, rows)
