"""`msp-ds ablate` as a user meets it; the slow test trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import refusal, run

from msp_ds.cli import ablation_commands


def test_a_dry_run_shows_the_plan_and_writes_nothing(small_shards: Path, tmp_path: Path) -> None:
    words = ("--shards", small_shards, "--out", tmp_path / "out", "--steps", 12, "--benchmarks", "zero-shot-retrieval")
    result = run("ablate", "--table", 4, *words, "--rows", "s,tps", "--dry-run")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "t4 → p4 → s4" in shown
    assert "12 × pre-train" in shown  # three seeds of four stages
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    assert "Table 4 has no row 'x'" in refusal("ablate", "--rows", "x")
    assert "nothing is called 'vqa2'" in refusal("ablate", "--benchmarks", "vqa2")
    assert "no shards for stage token" in refusal("ablate", "--shards", tmp_path)
    assert run("ablate", "--table", 3).exit_code == 2


def test_a_wrong_setting_is_refused_before_anything_runs(small_shards: Path, tmp_path: Path) -> None:
    words = ("--shards", small_shards, "--out", tmp_path / "out", "--benchmarks", "zero-shot-retrieval")
    assert "'some' is none of masked, all" in refusal("ablate", *words, "--set", "moc_target=some")
    assert not (tmp_path / "out").exists()


def test_a_command_that_fails_is_named_and_the_exit_code_is_1(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: object, log: Path) -> int:
        log.write_text("error: no room\n")
        return 2

    monkeypatch.setattr(ablation_commands, "launch", fail)
    words = ("--shards", small_shards, "--out", tmp_path, "--benchmarks", "zero-shot-retrieval", "--seeds", 1)
    result = run("ablate", *words, "--rows", "s", "--steps", 2)
    assert result.exit_code == 1
    assert "missing" in result.stdout
    assert "failed: seed-9595/s2: exit code 2: error: no room" in result.stderr
    assert (tmp_path / "table_4.md").is_file()


def test_a_command_runs_in_a_separate_process_and_its_output_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    assert ablation_commands.launch(("info", "--preset", "nothing"), log) == 2
    assert ablation_commands.launch(("info", "--preset", "tiny"), log) == 0
    text = log.read_text()
    assert text.startswith("\n$ msp-ds info --preset nothing\n")
    assert "no preset is called 'nothing'" in text
    assert "\n$ msp-ds info --preset tiny\n" in text


@pytest.mark.full
@pytest.mark.slow
def test_two_rows_are_trained_graded_and_shown(small_shards: Path, tmp_path: Path) -> None:
    words = ("--shards", small_shards, "--out", tmp_path, "--benchmarks", "zero-shot-retrieval", "--seeds", 1)
    result = run("ablate", *words, "--rows", "s,ts", "--steps", 4, "--images", 4)
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "seed-9595").iterdir()} >= {"s4", "t2", "t2_s2"}
    assert "missing" not in result.stdout
    again = run("ablate", *words, "--rows", "s,ts", "--steps", 4, "--images", 4)
    assert "5 of 5 runs and evaluations are done" in " ".join(again.stderr.split())
