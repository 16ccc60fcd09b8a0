"""Cached scores: an evaluation resumes after a kill, processes share a folder, a folder of other scores is refused."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from msp_ds.errors import InputError
from msp_ds.evaluation.score_cache import ScoreCache, Scoring, ScoringPart, read_part, weights_sha256

SCORING = Scoring(weights_sha256="a1", pool_sha256="b2", precision="fp32", num_images=3, num_captions=4)
MARGINS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
"""Of the captions in columns 2 and 0."""


def keep_two(folder: Path) -> ScoreCache:
    kept = ScoreCache(folder, SCORING)
    kept.keep(torch.tensor([2, 0]), MARGINS)
    return kept


def test_a_new_folder_has_all_scores_to_come(tmp_path: Path) -> None:
    kept = ScoreCache(tmp_path / "run" / "scores", SCORING)
    assert kept.num_missing() == 4
    assert kept.scores().shape == (3, 4)
    assert sorted(path.name for path in kept.folder.parent.iterdir()) == ["scores"]


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    keep_two(tmp_path / "scores").flush()
    kept = ScoreCache(tmp_path / "scores", SCORING)
    assert kept.num_missing() == 2
    assert torch.equal(kept.scores()[:, [2, 0]], MARGINS)
    assert not kept.missing(torch.tensor([0, 2]))
    assert kept.missing(torch.tensor([0, 1]))


def test_a_caption_of_which_one_score_is_to_come_is_missing(tmp_path: Path) -> None:
    kept = keep_two(tmp_path / "scores")
    np.load(tmp_path / "scores" / "scores.npy", mmap_mode="r+")[0, 1] = np.nan
    assert kept.missing(torch.tensor([0]))
    assert not kept.missing(torch.tensor([2]))


def keep_two_and_die(folder: Path) -> None:
    keep_two(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def test_scores_outlive_kill_9(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=keep_two_and_die, args=(tmp_path / "scores",))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    kept = ScoreCache(tmp_path / "scores", SCORING)
    assert torch.equal(kept.scores()[:, [2, 0]], MARGINS)
    assert kept.num_missing() == 2


def test_processes_that_make_the_folder_together_fill_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: ScoreCache(tmp_path / "scores", SCORING), range(8)))
    for place, kept in enumerate(opened[:4]):
        kept.keep(torch.tensor([place]), torch.full((3, 1), float(place)))
    assert all(kept.num_missing() == 0 for kept in opened)
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"weights_sha256": "c3"}, "weights_sha256"),
        ({"pool_sha256": "d", "precision": "bf16"}, "pool_sha256, precision"),
    ],
)
def test_scores_of_something_else_are_refused(change: dict[str, str], fields: str, tmp_path: Path) -> None:
    ScoreCache(tmp_path / "scores", SCORING)
    other = dataclasses.replace(SCORING, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"another evaluation \({fields} differ\); delete it to score again"):
        ScoreCache(tmp_path / "scores", other)


@pytest.mark.parametrize("content", [b"", b"not numpy", None])
def test_a_damaged_matrix_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = ScoreCache(tmp_path / "scores", SCORING).folder / "scores.npy"
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    with pytest.raises(InputError, match="scores is damaged; delete it to score again"):
        ScoreCache(tmp_path / "scores", SCORING)


def test_a_matrix_that_is_gone_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = ScoreCache(tmp_path / "scores", SCORING).folder / "scores.npy"
    np.save(path, np.zeros((4, 2), np.float32))
    with pytest.raises(InputError, match="is damaged"):
        ScoreCache(tmp_path / "scores", SCORING)
    path.unlink()
    with pytest.raises(InputError, match="is damaged"):
        ScoreCache(tmp_path / "scores", SCORING)


def test_a_folder_without_its_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    with pytest.raises(InputError, match=r"scoring.json is missing"):
        ScoreCache(tmp_path / "scores", SCORING)


def test_a_weight_its_name_and_its_shape_change_the_hash() -> None:
    plain = torch.nn.Linear(2, 3)
    torch.nn.init.ones_(plain.weight)
    torch.nn.init.zeros_(plain.bias)
    again, turned = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    again.load_state_dict(plain.state_dict())
    torch.nn.init.ones_(turned.weight)
    assert weights_sha256(again) == weights_sha256(plain)
    assert weights_sha256(turned) != weights_sha256(plain)
    assert weights_sha256(again.double()) != weights_sha256(plain)
    with torch.no_grad():
        plain.bias[1] = 1e-7
    assert weights_sha256(again.float()) != weights_sha256(plain)


@pytest.mark.parametrize(
    ("text", "launcher", "part"),
    [
        (None, {}, ScoringPart(index=0, count=1)),
        (None, {"RANK": "2", "WORLD_SIZE": "4"}, ScoringPart(index=2, count=4)),
        ("1/4", {"RANK": "2", "WORLD_SIZE": "4"}, ScoringPart(index=0, count=4)),
        ("3/3", {}, ScoringPart(index=2, count=3)),
    ],
)
def test_a_part_is_named_or_that_of_the_rank(text: str | None, launcher: dict[str, str], part: ScoringPart) -> None:
    assert read_part(text, launcher) == part


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", ""])
def test_other_parts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="part"):
        read_part(text, {})
