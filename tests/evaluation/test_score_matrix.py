"""Score matrices are read as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from msp_ds.errors import InputError
from msp_ds.evaluation.score_matrix import ScoreMatrix, read_score_matrix

SCORES = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -0.5]])
OWNERS = torch.tensor([0, 1, 0])


def matrix() -> ScoreMatrix:
    return ScoreMatrix(
        scores=SCORES, image_ids=("f30k-7", "f30k-9"), caption_keys=torch.tensor([3, 4, 5]), image_of_caption=OWNERS
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    matrix().write(tmp_path / "scores.npz")
    found = read_score_matrix(tmp_path / "scores.npz")
    assert found.image_ids == ("f30k-7", "f30k-9")
    assert found.caption_keys.tolist() == [3, 4, 5]
    assert torch.equal(found.scores, SCORES)
    assert torch.equal(found.image_of_caption, OWNERS)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npz"]


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "scores.npz",
        scores=SCORES.numpy(),
        image_ids=np.array(["a"]),
        caption_keys=np.arange(3),
        image_of_caption=np.zeros(3, dtype=np.int64),
    )
    with pytest.raises(InputError, match=r"scores.npz: scores of shape \(2, 3\) do not fit 1 images and 3 captions"):
        read_score_matrix(tmp_path / "scores.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04cut off"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "scores.npz").write_bytes(content)
    with pytest.raises(
        InputError, match=r"scores.npz is (empty|not a readable archive).* should be a score matrix, .npz"
    ):
        read_score_matrix(tmp_path / "scores.npz")


def test_a_plain_array_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", SCORES.numpy())
    with pytest.raises(InputError, match=r"it is not a zip archive.*it should be a score matrix"):
        read_score_matrix(tmp_path / "scores.npy")
    with pytest.raises(InputError, match="is missing"):
        read_score_matrix(tmp_path / "scores.npz")
    with pytest.raises(InputError, match="cannot be written"):
        matrix().write(tmp_path / "nowhere" / "scores.npz")
