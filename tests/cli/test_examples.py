"""The examples do what their first lines promise, on a small world and in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MAX_LINES = 80
"""An example is read like a page."""


def output_of(example: str, *flags: object) -> str:
    """What an example prints, run as its first lines say."""
    command = [sys.executable, str(EXAMPLES / example), *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_a_page_that_opens_with_its_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert any(line.startswith(f"    python examples/{path.name}") for line in lines[:12])


@pytest.mark.slow
def test_a_task_of_its_own_is_trained_beside_the_stages_tasks(small_shards: Path, tmp_path: Path) -> None:
    printed = output_of("add_a_task.py", "--shards", small_shards, "--run-dir", tmp_path / "run")
    losses = re.findall(r"^(training|validation), step (\d+): loss of MOW (\d+\.\d\d)$", printed, re.MULTILINE)
    assert losses[-1][:2] == ("validation", "20")
    assert float(losses[-1][2]) < float(losses[0][2])
    validation = json.loads((tmp_path / "run" / "1-sentence" / "stage.json").read_text())["validation"]
    assert {"loss/mow", "accuracy/mow", "loss/mlm", "accuracy/itm_hs"} <= validation.keys()


@pytest.mark.slow
def test_models_give_captions_scores_images_and_answers(looking_site: Path) -> None:
    runs = looking_site / "runs"
    flags = ("--shards", looking_site / "shards", "--question", "How many dogs are there?")
    printed = output_of("ask_a_model.py", "--checkpoint", runs / "tps", "--answerer", runs / "vqa", *flags)
    assert len(re.findall(r"%  .*\((?:its own|of another image)\)$", printed, re.MULTILINE)) == 3
    assert len(re.findall(r"^  [+ ][+-]?\d+\.\d\d  [+ ]?[+-]\d+\.\d\d  ", printed, re.MULTILINE)) == 2
    answers = printed.partition("How many dogs are there?\n")[2].splitlines()
    assert len(answers) == 3
    assert all(line.count("%") == 3 for line in answers)


@pytest.mark.slow
def test_photographs_that_are_in_no_set_are_answered_and_ranked(
    photo_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = Path(__file__).resolve().parents[1] / "support"
    places = (photo_site / "detectors", support, EXAMPLES.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    monkeypatch.setenv("HOME", str(tmp_path))
    photographs = [photo_site / "photographs" / f"{number}.png" for number in (1, 2)]
    runs = photo_site / "runs"
    flags = ("--checkpoint", runs / "alone", "--matcher", runs / "tps", "--detector", "colours")
    printed = output_of("ask_about_a_photograph.py", *photographs, *flags).splitlines()
    assert printed[0].startswith("1.png: white, green")
    assert printed[1].count("%") == 3
    assert printed[2].startswith("2.png: white, blue")
    assert [line.split(" fits ")[0] for line in printed[4:]] == ["1.png", "2.png"]
    assert len(list((tmp_path / ".cache" / "msp-ds" / "regions").rglob("*.npz"))) == 2
