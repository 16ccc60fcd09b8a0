"""`msp-ds regions` as a user sees it, and `msp-ds shard` after it."""

from __future__ import annotations

from pathlib import Path

import colour_cells
import pytest
from colour_cells import draw
from command_line import refusal, run
from raw_files import PIECES

from msp_ds.data.format.shards import open_set


@pytest.fixture
def photos(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine drawn photographs, of which one is no picture; the detector is installed."""
    colour_cells.install(tmp_path_factory.mktemp("installed"), monkeypatch)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        draw(folder / f"IMG {number}.png", number)
    (folder / "page.jpg").write_text("<!DOCTYPE html>")
    return folder


def test_photographs_become_regions_and_shards(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "regions"
    common = ("regions", photos, "--detector", "colours", "--out", out, "--jobs", 1)
    assert refusal(*common, log_lines=1).endswith(
        "should be a picture; download it again; leave out and list such pictures with --on-error skip"
    )
    done = run(*common, "--on-error", "skip")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"9 images with 81 regions in {out} (16 kB)",
        "1 of 10 left out, listed in regions.json",
    ]
    (first,) = done.stderr.splitlines()
    assert first.endswith(f"10 pictures, names read by --corpus own: {photos}/IMG 0.png is own-img-0")
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    (tmp_path / "attributes.txt").write_text("wet\n")
    labels = ("--objects-vocab", out / "objects_vocab.txt", "--attributes-vocab", tmp_path / "attributes.txt")
    words = ("--vocab", tmp_path / "vocab.txt", "--holdout", 2, "--out", tmp_path / "shards")
    shard = run("shard", "--stage", "token", "--regions", out, *labels, *words)
    assert shard.exit_code == 0, shard.output
    keys = [key for shard in open_set(tmp_path / "shards" / "token" / "train").index.shards for key in shard.keys]
    assert len(keys) == 7
    assert set(keys) < {f"own-img-{number}" for number in range(9)}


def test_a_check_is_a_table_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "page.jpg").unlink()
    detector = ("--detector", "colours", "--jobs", 1)
    run("regions", photos, *detector, "--out", tmp_path / "regions")
    before = sorted(tmp_path.rglob("*"))
    table = run("regions", photos, *detector, "--check", tmp_path / "regions")
    assert table.exit_code == 0, table.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.stdout.splitlines() if "│" in line]
    assert rows[0] == ["own-img-0", "9", "9", "9", "9", "1.0000", "+0.0000"]
    assert rows[-1] == ["all", "81", "81", "81", "81", "1.0000", "+0.0000"]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_detector_is_one_line(photos: Path) -> None:
    assert "nobody" in refusal("regions", photos, "--detector", "nobody", log_lines=1)
