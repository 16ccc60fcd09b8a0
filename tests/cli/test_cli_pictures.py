"""Picture files as a user asks about them: answer, search and explain, and one line for what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from command_line import refusal, run
from PIL import Image
from small_world import files_below

PICTURE = "photographs/1.png"
COMMON = ["--image", PICTURE, "--detector", "colours", "--cache", "cache"]
QUESTION = ["--question", "what color is the ball?"]


@pytest.fixture
def here(photo_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the site's pictures, shards and runs, and its detectors installed."""
    for name in ("photographs", "shards", "runs"):
        (tmp_path / name).symlink_to(photo_site / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(photo_site / "detectors")
    return tmp_path


def test_pictures_are_answered_in_tables_with_picture_question_and_detector(here: Path) -> None:
    words = ["--checkpoint", "runs/vqa", "--shards", "shards/vqa/val", "--image", "photographs/2.png", "--top", "2"]
    result = run("answer", *words, *COMMON, *QUESTION, "--device", "cpu")
    assert result.exit_code == 0, result.output
    for number in (1, 2):
        assert f"photographs/{number}.png: what color is the ball?" in result.stdout
    assert result.stdout.count("regions by colours colours (weights 00000000, precision fp32, regions 12)") == 2
    probabilities = [float(found) for found in re.findall(r"│ (?:red|green|blue) +│ (\d\.\d{3}) +│", result.stdout)]
    assert len(probabilities) == 4
    assert probabilities[0] >= probabilities[1]
    two = run("answer", *words, *COMMON, "--question", "what is it?", "--question", "is it red?")
    assert "photographs/2.png: what is it?" in two.stdout
    assert "photographs/1.png: is it red?" in two.stdout


def test_a_picture_finds_texts_and_images_of_the_set(here: Path) -> None:
    flags = ["--checkpoint", "runs/tps", *COMMON]
    result = run("search", *flags, "--top", "2")
    assert result.exit_code == 0, result.output
    assert f"Texts that fit {PICTURE}" in result.stdout
    assert len(re.findall(r"│ +-?[01]\.\d{3} │ coco-\d+", result.stdout)) == 2
    assert run("search", *flags, "--html", "x.html").stdout == "x.html: open it in a browser\n"
    page = (here / "x.html").read_text()
    assert page.count("data:image/jpeg") == 1  # the picture itself, without --images
    assert f"<h1>{PICTURE}</h1>" in page


def test_explain_draws_on_the_photograph(here: Path) -> None:
    result = run("explain", "--checkpoint", "runs/vqa", "--shards", "shards/vqa/val", *COMMON, *QUESTION)
    assert result.exit_code == 0, result.output
    assert files_below(here / "explain") == {"explain.html", "explain-1-1.png"}
    page = (here / "explain" / "explain.html").read_text()
    assert page.count('class="picture photo"') == page.count("data:image/jpeg") == 1
    assert f"{PICTURE}, 96 × 64, 12 regions by colours" in page
    drawn = np.asarray(Image.open(here / "explain" / "explain-1-1.png").convert("RGB")).astype(int)
    assert ((drawn[..., 1] - drawn[..., 0] > 60) & (drawn[..., 1] - drawn[..., 2] > 60)).sum() > 500  # the green disc


def test_captions_of_a_pool_are_neither_right_nor_wrong_for_a_picture(here: Path) -> None:
    (here / "pool.txt").write_text("a red ball\na green ball\n")
    result = run("explain", "--checkpoint", "runs/tps", *COMMON, "--pool", "pool.txt")
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" ball") == 2
    page = (here / "explain" / "explain.html").read_text()
    assert 'class="wrong"' not in page
    assert "✓" not in page


def test_what_cannot_be_asked_is_one_line(here: Path) -> None:
    vqa = ["answer", "--checkpoint", "runs/vqa", "--shards", "shards/vqa/val", "--cache", "cache"]
    (here / "page.jpg").write_text("<html>")
    cases = {
        (*vqa, "--image", "cat.jpg", *QUESTION): "it has 4, such as coco-",
        (*vqa, "--image", "page.jpg", *QUESTION, "--detector", "none"): "none is no file or folder, no detector",
        (*vqa, "--image", PICTURE, "--detector", "wide", *QUESTION): "has regions of colours colours",
        (*vqa, *COMMON, *QUESTION, "--device", "nowhere"): "torch has no device nowhere here; name another",
        (*vqa, *COMMON, *QUESTION, *QUESTION): "2 questions and 1 images do not fit",
        (*vqa, "--image", "page.jpg", "--detector", "colours", *QUESTION): "page.jpg",
        ("search", "--checkpoint", "runs/tps", "--image", "none.png"): "and there is no picture file none.png",
    }
    for words, complaint in cases.items():
        assert complaint in refusal(*words), words
    opened = {  # after a line that no detector is on record
        ("explain", "--checkpoint", "runs/tps", *COMMON): "was loaded without a set to choose from; name one: --shards",
        ("answer", "--checkpoint", "runs/vqa", *COMMON, *QUESTION): "holds no answers to choose from",
    }
    for words, complaint in opened.items():
        assert complaint in refusal(*words, log_lines=1), words
    without = refusal("answer", "--checkpoint", "runs/alone", "--image", PICTURE, *QUESTION)
    assert "does not say which detector its regions are from; name it: --detector FOLDER" in without
    assert not (here / "explain").exists()
