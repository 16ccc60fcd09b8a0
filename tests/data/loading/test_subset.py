"""A subset of pairs keeps their texts, images and questions, and a larger subset holds a smaller one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from msp_ds.data.format.questions import Questions
from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.data.loading.subset import fewer_pairs
from msp_ds.errors import InputError


def test_fewer_pairs_keep_their_texts_images_and_questions(small_shards: Path) -> None:
    whole = open_set(small_shards / "sentence" / "train")
    count = whole.index.num_pairs
    offsets = np.arange(count + 1) * 2
    questions = Questions(
        question_ids=np.arange(count).astype("S8"),
        answer_offsets=offsets,
        answer_ids=(np.arange(2 * count) % 7).astype(np.int32),
        answer_scores=np.full(2 * count, 0.5, np.float32),
        second_images=np.arange(count, dtype=np.int32) % 3,
        answers=tuple("abcdefg"),
    )
    whole = dataclasses.replace(whole, questions=questions)
    some = fewer_pairs(whole, 40, seed=3)
    readers = Reader(whole), Reader(some)
    row_of = {key: row for row, key in enumerate(whole.pairs.keys.tolist())}
    rows = torch.tensor([row_of[key] for key in some.pairs.keys.tolist()])
    every = torch.arange(40)
    assert (rows.diff() > 0).all()
    assert torch.equal(readers[1].images, readers[0].images[rows])
    for mine, theirs in zip(readers[1].texts(every), readers[0].texts(rows), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(readers[1].answers(every), readers[0].answers(rows), strict=True):
        assert torch.equal(mine, theirs)
    assert some.questions is not None
    assert some.questions.question_ids.tolist() == [str(row).encode() for row in rows.tolist()]


def test_a_larger_subset_holds_a_smaller_one(small_shards: Path) -> None:
    whole = open_set(small_shards / "sentence" / "train")
    few, more = (set(fewer_pairs(whole, count, seed=3).pairs.keys.tolist()) for count in (10, 30))
    other = set(fewer_pairs(whole, 10, seed=4).pairs.keys.tolist())
    assert few < more
    assert other != few


@pytest.mark.parametrize("count", [0, 10_000])
def test_more_pairs_than_there_are_are_refused(small_shards: Path, count: int) -> None:
    with pytest.raises(InputError, match=r"has \d+ pairs, \d+ were requested; choose 1 to"):
        fewer_pairs(open_set(small_shards / "sentence" / "train"), count, seed=0)
