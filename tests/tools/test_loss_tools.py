"""The programs that compare losses: with the slow references, between commits, between runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from msp_ds.errors import InputError
from tools.check.loss_compare import Difference, commit_of, differences, short_training_in

ROOT = Path(__file__).resolve().parents[2]


def left_by(tool: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_the_table_of_references_has_a_row_a_loss() -> None:
    done = left_by("check/loss_references.py", "--batches", 12)
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert rows == ["mlm", "mrfr", "moc", "ifrs", "titp", "tits", "itm_hs"]


@pytest.mark.slow
def test_a_difference_above_the_tolerance_is_an_error() -> None:
    assert left_by("check/loss_references.py", "--batches", 6, "--tolerance", 0).returncode == 1


def a_run(folder: Path, losses: list[float]) -> Path:
    """A run folder with one curve of one stage."""
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    with SummaryWriter(str(folder / "1-token")) as metric_logger:
        for step, loss in enumerate(losses, start=1):
            metric_logger.add_scalar("loss/mlm", loss, step)
    return folder


def test_runs_that_agree_to_the_last_bit_pass_and_others_only_within_the_tolerance(tmp_path: Path) -> None:
    one, same_again = a_run(tmp_path / "one", [4.0, 2.0]), a_run(tmp_path / "again", [4.0, 2.0])
    other = a_run(tmp_path / "other", [4.0, 2.5])  # apart by a fifth
    same = left_by("check/loss_compare.py", one, same_again)
    assert same.returncode == 0, same.stderr
    assert "equal to the last bit" in same.stdout
    assert left_by("check/loss_compare.py", one, other).returncode == 1
    assert left_by("check/loss_compare.py", one, other, "--tolerance", 0.21).returncode == 0


def test_what_is_neither_a_commit_nor_a_run_is_refused_in_one_line() -> None:
    done = left_by("check/loss_compare.py", "no-such-commit", "HEAD")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no-such-commit is neither a commit nor a run folder")
    assert len(done.stderr.splitlines()) == 1


def test_a_name_of_a_commit_becomes_its_hash() -> None:
    assert len(commit_of("HEAD")) == 40


@pytest.mark.parametrize("folder", ["tools/check", "tools"])
def test_the_training_program_of_a_commit_is_found_at_its_new_and_its_old_place(tmp_path: Path, folder: str) -> None:
    program = tmp_path / folder / "short_training.py"
    program.parent.mkdir(parents=True)
    program.touch()
    assert short_training_in(tmp_path) == program


def test_differences_are_relative_of_losses_above_one_and_plain_below() -> None:
    (one,) = differences({"token": {"mlm": [8.0, 0.5, 3.0]}}, {"token": {"mlm": [8.0, 0.75, 4.0]}})
    assert one.largest == 0.25
    assert one.first_step == 2
    assert Difference(stage="token", task="mlm", ours=[1.0], theirs=[1.0]).first_step is None


@pytest.mark.parametrize("theirs", [{}, {"token": {"mlm": [1.0]}}, {"token": {"mlm": [1.0, 2.0], "moc": [1.0, 2.0]}}])
def test_a_curve_that_one_side_lacks_is_named(theirs: dict[str, dict[str, list[float]]]) -> None:
    with pytest.raises(InputError, match="of stage token has"):
        differences({"token": {"mlm": [1.0, 2.0]}}, theirs)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(InputError, match="no losses to compare"):
        differences({}, {})


@pytest.mark.full
@pytest.mark.slow
def test_a_commit_equals_itself() -> None:
    done = left_by("check/loss_compare.py", "HEAD", "HEAD", "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert "equal to the last bit" in done.stdout
