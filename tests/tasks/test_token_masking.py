"""Tokens are masked, 15 % of them, 80/10/10, and never [CLS], [SEP] or padding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import CLS, MASK, SEP, VOCABULARY_TABLES, a_batch, context, many_pairs
from torch import Tensor

from msp_ds.records import Batch
from msp_ds.tasks.corruptions import mask_tokens

WIDE = dataclasses.replace(VOCABULARY_TABLES, vocab_size=1000)
"""So many pieces that a random one is hardly ever the old one."""


def masks(batch: Batch, **options: object) -> Tensor:
    return mask_tokens(batch, context(**options)).corruption.masked_tokens


def half_masked(**sizes: int) -> Batch:
    """Three pairs on which a probability of one half shows a difference for sure."""
    return a_batch((12, 9, 10), (6, 4, 5), **sizes)


def test_equal_keys_get_equal_masks_and_unequal_keys_do_not() -> None:
    batch = dataclasses.replace(many_pairs(3, num_tokens=40), keys=torch.tensor([7, 7, 8]))
    first, duplicate, other = masks(batch)
    assert torch.equal(first, duplicate)
    assert not torch.equal(first, other)


def test_the_clean_batch_stays_as_it_was() -> None:
    batch = half_masked()
    before = batch.token_ids.clone()
    mask_tokens(batch, context(token_probability=1.0))
    assert torch.equal(batch.token_ids, before)
    assert not batch.corruption.masked_tokens.any()


@pytest.mark.parametrize("unit", ["piece", "word"])
def test_with_probability_one_all_but_specials_and_padding_is_masked(unit: str) -> None:
    batch = half_masked(num_tokens=14)
    special = (batch.token_ids == CLS) | (batch.token_ids == SEP)
    assert torch.equal(masks(batch, token_probability=1.0, mlm_unit=unit), batch.token_mask & ~special)


def test_with_probability_zero_nothing_is_masked() -> None:
    assert not masks(half_masked(), token_probability=0.0).any()


@pytest.mark.parametrize("unit", ["piece", "word"])
def test_fifteen_percent_are_masked(unit: str) -> None:
    batch = many_pairs(6000, num_regions=1)  # ten words each: four standard errors are 0.0058
    fraction = masks(batch, mlm_unit=unit)[:, 1:-1].double().mean().item()
    assert fraction == pytest.approx(0.15, abs=0.0058)


def test_every_place_is_masked_alike() -> None:
    fraction = masks(many_pairs(6000, num_regions=1))[:, 1:-1].double().mean(0)
    assert (fraction - 0.15).abs().max() < 4.5 * (0.15 * 0.85 / 6000) ** 0.5


def test_of_the_masked_eighty_percent_are_hidden_ten_replaced_and_ten_kept() -> None:
    batch = many_pairs(6000, num_regions=1)
    corrupted = mask_tokens(batch, context(tables=WIDE))
    chosen = corrupted.corruption.masked_tokens
    old, new = batch.token_ids[chosen], corrupted.token_ids[chosen]
    hidden, kept = (new == MASK).double().mean().item(), (new == old).double().mean().item()
    assert hidden == pytest.approx(0.8, abs=0.018)  # about 9 000 tokens: four standard errors are 0.017
    assert kept == pytest.approx(0.1, abs=0.013)
    assert torch.equal(corrupted.token_ids[~chosen], batch.token_ids[~chosen])


def test_replacements_come_evenly_from_the_whole_vocabulary() -> None:
    batch = many_pairs(6000, num_regions=1)
    corrupted = mask_tokens(batch, context(tables=WIDE, token_probability=1.0))
    strange = corrupted.token_ids[(corrupted.token_ids != batch.token_ids) & (corrupted.token_ids != MASK)]
    counts = torch.bincount(strange // 100, minlength=10).double()
    assert len(counts) == 10
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 27.88  # 99.9 % point of chi-square, 9 degrees


def test_whole_words_are_masked_or_left() -> None:
    batch = many_pairs(400, num_tokens=12, num_regions=1)
    words = torch.tensor([1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 6, 1])
    batch = dataclasses.replace(batch, word_positions=words.expand(400, -1))
    chosen = masks(batch, mlm_unit="word", token_probability=0.5)
    for word in range(2, 7):
        pieces = chosen[:, words == word]
        assert torch.equal(pieces.any(1), pieces.all(1))
        assert 0 < pieces[:, 0].sum() < 400


def test_pieces_of_a_word_are_masked_apart_by_default() -> None:
    batch = many_pairs(400, num_regions=1)
    batch = dataclasses.replace(batch, word_positions=torch.tensor([1] + [2] * 10 + [1]).expand(400, -1))
    chosen = masks(batch, token_probability=0.5)[:, 1:-1]
    assert not torch.equal(chosen.any(1), chosen.all(1))
