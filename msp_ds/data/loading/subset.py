"""A set with fewer pairs, for quick studies; they are chosen by their keys, so a larger subset holds a smaller one."""

import dataclasses

import numpy as np
import torch

from msp_ds.data.format.questions import Questions
from msp_ds.data.format.shards import Pairs, ShardSet
from msp_ds.errors import InputError
from msp_ds.stateless_random import SUBSET, hash64


def fewer_pairs(shards: ShardSet, count: int, *, seed: int) -> ShardSet:
    """Return the set with `count` of its pairs, in their order, and all images. Raises: InputError for fewer pairs."""
    total = shards.index.num_pairs
    if not 0 < count <= total:
        raise InputError(f"{shards.path} has {total} pairs, {count} were requested; choose 1 to {total}")
    hashes = hash64(seed=seed, epoch=0, keys=torch.from_numpy(shards.pairs.keys), purpose=SUBSET).numpy()
    rows = np.sort(np.argsort(hashes, kind="stable")[:count])
    return dataclasses.replace(
        shards,
        index=dataclasses.replace(shards.index, num_pairs=count),
        pairs=_some_pairs(shards.pairs, rows),
        questions=None if shards.questions is None else _some_questions(shards.questions, rows),
    )


def _some_pairs(pairs: Pairs, rows: np.ndarray) -> Pairs:
    offsets, indices = _ragged(pairs.offsets, rows)
    return Pairs(
        keys=pairs.keys[rows],
        image_rows=pairs.image_rows[rows],
        offsets=offsets,
        token_ids=pairs.token_ids[indices],
        word_positions=pairs.word_positions[indices],
    )


def _some_questions(questions: Questions, rows: np.ndarray) -> Questions:
    offsets, indices = _ragged(questions.answer_offsets, rows)
    return dataclasses.replace(
        questions,
        question_ids=questions.question_ids[rows],
        answer_offsets=offsets,
        answer_ids=questions.answer_ids[indices],
        answer_scores=questions.answer_scores[indices],
        second_images=questions.second_images[rows],
    )


def _ragged(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 offsets of `rows` alone, and the indices of their values in the whole table."""
    lengths = offsets[rows + 1] - offsets[rows]
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    indices = np.arange(starts[-1]) + np.repeat(offsets[rows] - starts[:-1], lengths)
    return starts, indices
