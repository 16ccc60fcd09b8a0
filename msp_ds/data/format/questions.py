"""The questions of a benchmark, one per pair of a set: its id, the right answers, and the second image if there is one.

P pairs of the set, N images, L right answers in all, A answers to choose from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msp_ds.config import read_json
from msp_ds.data.format.index_checks import is_within
from msp_ds.data.format.set_layout import ANSWERS_NAME, QUESTIONS_NAME
from msp_ds.errors import ShardError
from msp_ds.storage.array_files import load_arrays

_TYPES = {
    "question_ids": "S",
    "answer_offsets": "int64",
    "answer_ids": "int32",
    "answer_scores": "float32",
    "second_images": "int32",
}


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The questions or statements of a set, one per pair."""

    question_ids: np.ndarray
    """bytes [P]: the official ids in ASCII."""
    answer_offsets: np.ndarray
    """int64 [P + 1]: pair p has answer_ids[answer_offsets[p] : answer_offsets[p + 1]]; none in a test split."""
    answer_ids: np.ndarray
    """int32 [L]: indices into `answers`."""
    answer_scores: np.ndarray
    """float32 [L]: how right each is, 0 to 1."""
    second_images: np.ndarray
    """int32 [P]: row of the second image, -1 where there is only one."""
    answers: tuple[str, ...]
    """The A answers to choose from."""

    @property
    def most_answers(self) -> int:
        """The largest number of right answers of a question, at least 1."""
        return max(1, int(np.diff(self.answer_offsets).max(initial=0)))

    def right_answers(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 [B, K] answers of int64 [B] `pairs`, -1 beyond the last, and float32 [B, K] scores.

        K is most_answers.
        """
        starts, ends = self.answer_offsets[pairs], self.answer_offsets[pairs + 1]
        indices = starts[:, None] + np.arange(self.most_answers)
        inside = indices < ends[:, None]
        if not len(self.answer_ids):
            return np.full(inside.shape, -1, np.int64), np.zeros(inside.shape, np.float32)
        indices = np.where(inside, indices, 0)
        ids = np.where(inside, self.answer_ids[indices], -1).astype(np.int64)
        return ids, np.where(inside, self.answer_scores[indices], 0).astype(np.float32)


def load_questions(folder: Path, *, num_pairs: int, num_images: int) -> Questions:
    """Return the questions of the set in `folder`.

    Raises: ShardError when its tables do not agree with each other or with the set.
    """
    path = folder / QUESTIONS_NAME
    arrays = load_arrays(path, list(_TYPES), what="the questions of a shard set")
    for name, kind in _TYPES.items():
        if (arrays[name].dtype.kind if kind == "S" else str(arrays[name].dtype)) != kind:
            raise ShardError(f"{path} holds {name} of type {arrays[name].dtype} instead of {kind}")
    answers = read_json(folder / ANSWERS_NAME, what="the answers to choose from")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ShardError(f"{folder / ANSWERS_NAME} is not a list of answers")
    questions = Questions(**arrays, answers=tuple(answers))
    ends, scores = questions.answer_offsets, questions.answer_scores
    fits = (
        len(questions.question_ids) == len(questions.second_images) == len(ends) - 1 == num_pairs
        and ends[0] == 0
        and (np.diff(ends) >= 0).all()
        and ends[-1] == len(questions.answer_ids) == len(scores)
        and is_within(questions.answer_ids, 0, len(answers))
        and is_within(questions.second_images, -1, num_images)
        and ((scores > 0) & (scores <= 1)).all()
    )
    if not fits:
        raise ShardError(f"{path} does not agree with the {num_pairs} pairs, {num_images} images and its answers")
    return questions
