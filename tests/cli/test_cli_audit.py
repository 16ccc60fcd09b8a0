"""msp-ds audit and msp-ds shard --exclude as commands: what they print, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from command_line import refusal, run

from msp_ds.data.format.shards import open_set
from msp_ds.preparation.sources.text_files import read_image_ids


@pytest.fixture
def train_set(small_shards: Path) -> Path:
    """A set of 64 COCO images."""
    return small_shards / "sentence" / "train"


@pytest.fixture
def image_data(small_shards: Path) -> Path:
    return small_shards.parent / "world" / "image_data.json"


def write_ids(path: Path, ids: Iterable[str]) -> Path:
    path.write_text("\n".join(ids))
    return path


def duplicates_in(image_data: Path) -> dict[str, str]:
    """COCO id -> Visual Genome id, without the code under test."""
    rows = json.loads(image_data.read_text())
    return {f"coco-{row['coco_id']}": f"vg-{row['image_id']}" for row in rows}


def test_sets_that_share_nothing_end_with_0(train_set: Path) -> None:
    result = run("audit", "--train", train_set, "--eval", train_set.parent / "val")
    assert result.exit_code == 0
    assert "64" in result.stdout
    assert "16" in result.stdout
    assert result.stderr == ""


def test_a_shared_image_ends_with_1_and_is_listed(train_set: Path, tmp_path: Path) -> None:
    shared = open_set(train_set).keys[5]
    result = run("audit", "--train", train_set, "--eval", write_ids(tmp_path / "a.txt", [shared, "coco-999999"]))
    assert result.exit_code == 1
    assert f"  {shared}\n" in result.stdout


def test_a_planted_duplicate_ends_with_1_and_is_listed(train_set: Path, image_data: Path, tmp_path: Path) -> None:
    duplicates = duplicates_in(image_data)
    planted = next(key for key in open_set(train_set).keys if key in duplicates)
    duplicate = duplicates[planted]
    evaluation = write_ids(tmp_path / "a.txt", [duplicate])
    result = run("audit", "--train", train_set, "--eval", evaluation, "--image-data", image_data)
    assert result.exit_code == 1
    assert f"  {planted} = {duplicate}\n" in result.stdout


def test_without_image_data_duplicates_are_not_reported_absent(train_set: Path, tmp_path: Path) -> None:
    result = run("audit", "--train", train_set, "--eval", write_ids(tmp_path / "a.txt", ["vg-7"]))
    assert result.exit_code == 2
    assert "not all checked" in result.stdout
    assert "error: no image is in both by id, but 1 images of Visual Genome" in result.stderr
    assert "--image-data FILE" in result.stderr


def test_twenty_images_are_shown_and_all_are_written(train_set: Path, tmp_path: Path) -> None:
    result = run("audit", "--train", train_set, "--eval", train_set, "--out", tmp_path / "shared.txt")
    assert result.exit_code == 1
    assert sum(line.startswith("  coco-") for line in result.stdout.splitlines()) == 20
    assert "and 44 more; --out FILE lists all" in result.stdout
    assert read_image_ids(str(tmp_path / "shared.txt")) == set(open_set(train_set).keys)


def test_images_that_gqa_renumbered_are_warned_of(train_set: Path, tmp_path: Path) -> None:
    result = run("audit", "--train", train_set, "--eval", write_ids(tmp_path / "a.txt", ["vg-n1", "vg-n2"]))
    assert result.exit_code == 0
    assert "warning: 2 images have GQA's numbers n..." in result.stdout


def test_a_part_that_cannot_be_read_ends_with_2(train_set: Path, tmp_path: Path) -> None:
    assert refusal("audit", "--train", train_set, "--eval", "nowhere.json").startswith("nowhere.json is missing")
    assert "it should be a shard set" in refusal("audit", "--train", train_set / "none", "--eval", train_set)
    assert "has no index.json" in refusal("audit", "--train", tmp_path, "--eval", train_set)


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_ids(Path("[bold]a.txt"), ["coco-1"])
    assert "[bold]a.txt" in run("audit", "--train", path, "--eval", path).stdout


def test_shard_prints_what_was_excluded_and_the_papers_pairs(small_shards: Path, tmp_path: Path) -> None:
    world = small_shards.parent / "world"
    keys = open_set(small_shards / "sentence" / "train").keys[:3]
    flags: dict[str, object] = {
        "stage": "sentence",
        "regions": world / "regions.tsv",
        "captions": world / "captions.json",
        "objects-vocab": world / "objects_vocab.txt",
        "attributes-vocab": world / "attributes_vocab.txt",
        "vocab": "trained",
        "exclude": write_ids(tmp_path / "ids.txt", keys),
        "out": tmp_path / "shards",
    }
    result = run("shard", *(word for name, value in flags.items() for word in (f"--{name}", value)))
    assert result.exit_code == 0
    pairs = open_set(tmp_path / "shards" / "sentence" / "train").index.num_pairs
    assert f"sentence: {pairs} image-text pairs in all, the paper has 0.62 M" in result.stdout
    assert "excluded: 3 images, 0 of them as duplicates under another id" in result.stdout


def test_a_named_split_without_its_file_is_one_line_before_the_demo_world_is_made(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--stage", "token", "--recipe", "shards/demo.toml", "--exclude", "karpathy-test"]
    regions = ["--regions", small_shards.parent / "world" / "regions.tsv"]
    assert refusal("shard", *flags, *regions).startswith("dataset_coco.json of Karpathy's")
    assert not (tmp_path / "world").exists()
