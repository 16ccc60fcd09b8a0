"""search and explain as a user meets them: what they print and write, and one line for what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import refusal, run
from PIL import Image
from small_world import files_below

from msp_ds.data.format.shards import open_set


@pytest.fixture
def here(looking_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the site's shards and runs."""
    for name in ("shards", "runs"):
        (tmp_path / name).symlink_to(looking_site / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(looking_site: Path) -> str:
    return open_set(looking_site / "shards" / "sentence" / "val").keys[0]


@pytest.fixture
def image_id(looking_site: Path) -> str:
    return open_set(looking_site / "shards" / "vqa" / "val").keys[0]


MODELS = ["--checkpoint", "runs/s", "--checkpoint", "runs/tps"]


def test_a_text_finds_images(here: Path) -> None:
    result = run("search", "a red ball", "--checkpoint", "runs/tps", "--top", 4)
    assert result.exit_code == 0, result.output
    assert "Images that fit “a red ball”" in result.stdout
    assert len(re.findall(r"│ 0\.\d{3} │ coco-\d+", result.stdout)) == 4
    assert result.stdout.count("regions\n") == 3


def test_an_image_finds_texts_and_images(here: Path, image: str) -> None:
    (here / "files").mkdir()
    Image.new("RGB", (40, 30)).save(here / "files" / f"{image.removeprefix('coco-')}.jpg")
    result = run("search", "--image", image, "--checkpoint", "runs/tps", "--html", "x.html", "--images", "files")
    assert result.stdout == "x.html: open it in a browser\n"
    page = (here / "x.html").read_text()
    assert page.count("data:image/jpeg") == 1
    assert f"<h1>{image}</h1>" in page
    shown = run("search", "--image", image, "--checkpoint", "runs/tps").stdout
    assert f"Texts that fit {image}" in shown
    assert f"Images like {image}" in shown


def test_models_explain_captions_side_by_side(here: Path, image: str) -> None:
    result = run("explain", *MODELS, "--image", image, "--tensorboard", "board")
    assert result.exit_code == 0, result.output
    assert f"{image}: Which caption fits?" in result.stdout
    assert "t→p→s" in result.stdout
    assert result.stdout.endswith("written to explain/explain.html\n")
    assert files_below(here / "explain") == {"explain.html", f"explain-1-{image}.png"}
    assert (here / "board").is_dir()


def test_models_explain_answers(here: Path, image_id: str) -> None:
    words = ["--checkpoint", "p→s=runs/vqa", "--image", image_id, "--question", "what color is the ball?", "--out", "o"]
    result = run("explain", *words)
    assert result.exit_code == 0, result.output
    assert f"{image_id}: what color is the ball?" in result.stdout
    assert "<h3>p→s</h3>" in (here / "o" / "explain.html").read_text()


def test_a_pool_of_captions_is_ranked(here: Path, image: str) -> None:
    (here / "pool.txt").write_text("a red ball\ntwo dogs\n")
    shown = run("explain", *MODELS, "--image", image, "--pool", "pool.txt").stdout
    assert shown.count("a red ball") == shown.count("two dogs") == 2


def test_what_cannot_be_searched_or_explained_is_one_line(here: Path, image: str, image_id: str) -> None:
    model = ["--checkpoint", "runs/tps"]
    question = ["--question", "why?", "--image", image_id]
    cases = {
        ("search", *model): "name what to look for: a text, as msp-ds search",
        ("search", "a", *model, "--image", image): "name what to look for",
        ("search", "a", *model, "--images", "runs"): "--images shows the files on a page; name it with --html",
        ("search", "", *model): "the text '' has no word",
        ("search", *model, "--image", "coco-0"): "holds no image 'coco-0'; it has 8, such as",
        ("search", "a", "--checkpoint", "runs/none"): "runs/none holds no complete checkpoint",
        ("search", "a", *model, "--shards", "shards/token/val"): "no shards for stage token",
        ("search", "a", "--checkpoint", "runs/vqa"): "has heads answer but no match head",
        ("explain", *model, *question): "has heads match but no answer head; msp-ds finetune --task vqa",
        (
            "explain",
            *model,
            *model,
            "--image",
            image,
        ): "two checkpoints are called t→p→s; name them: --checkpoint NAME=",
        ("explain", *model, "--image", image, "--image", "x"): "holds no image 'x'",
        ("explain", *model, *question, "--question", "b", "--question", "c"): "3 questions and 1 images do not fit",
        ("explain", *model, "--image", image, "--pool", "none"): "none cannot be read",
    }
    for words, complaint in cases.items():
        assert complaint in refusal(*words), words
    assert files_below(here) == set()
