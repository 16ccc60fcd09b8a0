"""The files of a world: complete or absent, the same for the same arguments, in the official layouts."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msp_ds.demo_world import make_world
from msp_ds.errors import InputError

FILES = {
    "regions.tsv",
    "captions.json",
    "region_descriptions.json",
    "image_data.json",
    "vqa_questions.json",
    "vqa_annotations.json",
    "gqa_questions.json",
    "nlvr2.json",
    "objects_vocab.txt",
    "attributes_vocab.txt",
    "hard_negatives.npz",
    "world.json",
}
COCO_NAME = re.compile(r"COCO_train2014_(\d{12})")


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(world: Path) -> list[list[str]]:
    csv.field_size_limit(2**31 - 1)
    with (world / "regions.tsv").open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def _array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), kind)


def _coco_ids(world: Path) -> list[int]:
    return [int(COCO_NAME.fullmatch(row[0])[1]) for row in _rows(world)]  # type: ignore[index]


def test_a_world_is_these_files_and_no_others(world: Path) -> None:
    assert {path.name for path in world.iterdir()} == FILES


def test_the_same_arguments_give_the_same_bytes_in_another_process(world: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from msp_ds.demo_world import make_world; "
        "make_world(pathlib.Path(sys.argv[1]), images=48, seed=7, feature_width=64)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=environment)
    assert _hashes(tmp_path / "again") == _hashes(world)


def test_another_seed_gives_other_images_captions_and_features(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path / "other", images=48, seed=8, feature_width=64)
    mine, other = _hashes(world), _hashes(tmp_path / "other")
    differing = {name for name in FILES if mine[name] != other[name]}
    assert differing == FILES - {"objects_vocab.txt", "attributes_vocab.txt"}


def test_an_image_does_not_depend_on_how_many_there_are(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path / "fewer", images=20, seed=7, feature_width=64)
    assert _rows(tmp_path / "fewer") == _rows(world)[:20]
    for name, key in (("captions.json", "annotations"), ("captions.json", "images")):
        fewer = _json(tmp_path / "fewer" / name)[key]
        assert fewer == _json(world / name)[key][: len(fewer)]
    fewer = _json(tmp_path / "fewer" / "region_descriptions.json")
    assert fewer == _json(world / "region_descriptions.json")[: len(fewer)]


def test_regions_are_lxmert_rows_with_height_before_width(world: Path) -> None:
    sizes = {image["id"]: (image["height"], image["width"]) for image in _json(world / "captions.json")["images"]}
    for row, number in zip(_rows(world), _coco_ids(world), strict=True):
        assert len(row) == 10
        assert (int(row[1]), int(row[2])) == sizes[number]
        assert row[7] == "36"
        assert [len(text) for text in row[3:7]] == [384, 192, 384, 192]
        assert len(row[8]) == 768
        assert _array(row[9], "<f4").shape == (36 * 64,)


def test_boxes_lie_in_the_image_and_the_surest_comes_first(world: Path) -> None:
    for row in _rows(world):
        boxes, scores = _array(row[8], "<f4").reshape(36, 4), _array(row[4], "<f4")
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= int(row[2])).all()
        assert (boxes[:, [1, 3]] <= int(row[1])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (np.diff(scores) <= 0).all()
        assert 0 < scores[-1] <= scores[0] < 1


def test_labels_are_lines_of_the_vocabularies(world: Path) -> None:
    for name, id_column, score_column in (("objects", 3, 4), ("attributes", 5, 6)):
        lines = (world / f"{name}_vocab.txt").read_text().split("\n")
        ids = np.concatenate([_array(row[id_column], "<i8") for row in _rows(world)])
        scores = np.concatenate([_array(row[score_column], "<f4") for row in _rows(world)])
        assert ids.min() >= 0
        assert ids.max() < len(lines)
        assert ((scores > 0) & (scores < 1)).all()


def test_vocabularies_have_synonyms_no_final_newline_and_no_name_twice(world: Path) -> None:
    for name in ("objects", "attributes"):
        text = (world / f"{name}_vocab.txt").read_text()
        assert not text.endswith("\n")
        assert any("," in line for line in text.split("\n"))
        firsts = [line.split(",")[0] for line in text.split("\n")]
        assert len(set(firsts)) == len(firsts)


def test_captions_are_five_an_image_in_the_coco_layout(world: Path) -> None:
    value = _json(world / "captions.json")
    assert list(value) == ["info", "licenses", "images", "annotations"]
    assert [image["id"] for image in value["images"]] == _coco_ids(world)
    assert value["images"][0]["file_name"] == f"{_rows(world)[0][0]}.jpg"
    ids = [caption["image_id"] for caption in value["annotations"]]
    assert all(ids.count(number) == 5 for number in set(ids))
    assert len({caption["id"] for caption in value["annotations"]}) == 5 * 48


def test_genome_images_have_their_own_ids_and_a_coco_duplicate(world: Path) -> None:
    images, regions = _json(world / "image_data.json"), _json(world / "region_descriptions.json")
    assert 0.6 * 48 < len(images) < 0.95 * 48
    assert [image["image_id"] for image in images] == [image["id"] for image in regions]
    assert {image["coco_id"] for image in images} < set(_coco_ids(world))
    assert not any(image["image_id"] == image["coco_id"] for image in images)


def test_genome_regions_lie_in_their_image(world: Path) -> None:
    sizes = {image["image_id"]: image for image in _json(world / "image_data.json")}
    for image in _json(world / "region_descriptions.json"):
        for region in image["regions"]:
            assert set(region) == {"region_id", "width", "height", "image_id", "phrase", "y", "x"}
            assert 0 <= region["x"] < region["x"] + region["width"] <= sizes[image["id"]]["width"] + 1
            assert 0 <= region["y"] < region["y"] + region["height"] <= sizes[image["id"]]["height"] + 1


def test_ids_are_not_in_the_order_of_the_rows(world: Path) -> None:
    ids = _coco_ids(world)
    assert ids not in (sorted(ids), sorted(ids, reverse=True))
    assert len(set(ids)) == 48


def test_hard_negatives_are_what_brute_force_finds(world: Path) -> None:
    means = np.stack([_array(row[9], "<f4").reshape(36, 64).mean(0) for row in _rows(world)])
    expected = [np.argsort([np.linalg.norm(mine - other) for other in means], kind="stable") for mine in means]
    with np.load(world / "hard_negatives.npz", allow_pickle=False) as found:
        assert found["image_ids"].dtype == np.int64
        assert found["neighbours"].dtype == np.int32
        assert found["image_ids"].tolist() == _coco_ids(world)
        assert found["neighbours"].tolist() == np.stack(expected).tolist()


def test_the_card_holds_the_arguments_that_made_the_world(world: Path) -> None:
    card = {"format": "msp-ds world", "version": 2, "seed": 7, "images": 48, "feature_width": 64}
    assert _json(world / "world.json") == card


def test_progress_advances_once_for_every_image(tmp_path: Path) -> None:
    heard: list[int] = []
    report = make_world(tmp_path / "world", images=41, seed=1, feature_width=16, advance=heard.append)
    assert sum(heard) == report.images == 41
    assert report.captions == 205
    assert len(heard) > 1


def test_a_fault_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "world", images=40, seed=1, feature_width=16, advance=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_leaves_the_older_world_as_it_was(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    make_world(tmp_path / "world", images=3, seed=1, feature_width=16)
    before = _hashes(tmp_path / "world")
    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "world", images=40, seed=2, feature_width=16, advance=fail)
    assert _hashes(tmp_path / "world") == before


def test_a_new_world_replaces_an_older_one(tmp_path: Path) -> None:
    make_world(tmp_path / "world", images=3, seed=1, feature_width=16)
    make_world(tmp_path / "world", images=4, seed=1, feature_width=16)
    assert len(_rows(tmp_path / "world")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_the_remains_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    (tmp_path / f".world.partial-{done.pid}").mkdir()
    make_world(tmp_path / "world", images=2, seed=1, feature_width=16)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"images": 0}, "at least 1"),
        ({"images": 10**6}, "999982"),
        ({"feature_width": 15}, "at least 16"),
        ({"seed": -1}, "0 to 2"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path: Path, change: dict[str, int], fix: str) -> None:
    with pytest.raises(InputError, match=fix):
        make_world(tmp_path / "world", **{"images": 2, "seed": 1, "feature_width": 16, **change})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a demo world; name a new folder"):
        make_world(tmp_path, images=2, seed=1, feature_width=16)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_world_with_an_unknown_file_is_not_replaced(tmp_path: Path) -> None:
    world = tmp_path / "world"
    make_world(world, images=2, seed=1, feature_width=16)
    (world / "notes.txt").write_text("precious")
    (tmp_path / ".world.partial-mine").mkdir()
    (tmp_path / ".world.partial-mine" / "x").write_text("precious")
    before = _hashes(world)
    with pytest.raises(InputError, match=r"world/notes.txt does not belong to a demo world and would be deleted"):
        make_world(world, images=3, seed=1, feature_width=16)
    assert _hashes(world) == before
    (world / "notes.txt").unlink()
    make_world(world, images=3, seed=1, feature_width=16)
    assert (tmp_path / ".world.partial-mine" / "x").read_text() == "precious"


def test_a_world_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "world").symlink_to(tmp_path / "disk")
    for images in (2, 3):
        make_world(tmp_path / "world", images=images, seed=1, feature_width=16)
    assert (tmp_path / "world").is_symlink()
    assert len(_rows(tmp_path / "disk")) == 3


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        make_world(tmp_path / "file" / "world", images=2, seed=1, feature_width=16)


def test_the_largest_seed_works(tmp_path: Path) -> None:
    make_world(tmp_path / "world", images=1, seed=2**64 - 1, feature_width=16)
    assert len(_rows(tmp_path / "world")) == 1
