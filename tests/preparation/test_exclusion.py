"""Images that a recipe leaves out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from raw_files import RawFolder, Row, captions_json, karpathy_json, write_json, write_tsv

from msp_ds.data.format.set_layout import StageName
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.writing.shard_building import build_shards


def build(raw: RawFolder, stage: StageName = "token", **changes: Any) -> ShardSet:
    build_shards(dataclasses.replace(raw.recipe, **changes), stage=stage, out=raw.path / "shards")
    return open_set(raw.path / "shards" / stage / "train")


def coco(*numbers: int) -> set[str]:
    return {f"coco-{number}" for number in numbers}


@pytest.fixture
def splits(raw: RawFolder) -> dict[str, str]:
    """Karpathy's and LXMERT's files over images 1 to 6; 9 has no regions."""
    images: list[tuple[str, int, list[str]]] = [
        (split, number, []) for number, split in enumerate(["train", "restval", "val", "test", "test"], start=1)
    ]
    lxmert = [{"img_id": f"COCO_val2014_{number:012d}", "sentf": {}} for number in (6, 9)]
    return {
        "karpathy": str(write_json(raw.path / "dataset_coco.json", karpathy_json(images))),
        "minival": str(write_json(raw.path / "mscoco_minival.json", lxmert)),
        "nominival": str(write_json(raw.path / "mscoco_nominival.json", [{"img_id": "1", "sentf": {}}])),
    }


@pytest.mark.parametrize("stage", ["token", "phrase", "sentence"])
def test_images_of_a_list_are_left_out_of_every_stage(raw: RawFolder, stage: StageName) -> None:
    (raw.path / "ids.txt").write_text("1\n4\n9\n")
    shards = build(raw, stage, exclude=(str(raw.path / "ids.txt"),))
    everything = coco(1, 2) if stage == "phrase" else coco(1, 2, 3, 4, 5, 6)
    assert set(shards.keys) == everything - coco(1, 4)
    counts = {"images_excluded": 2, "images_excluded_as_duplicates": 0, "images_unchecked_of_gqa_test": 0}
    assert {name: shards.index.texts[name] for name in counts} == counts


def test_without_exclusion_nothing_is_counted(raw: RawFolder) -> None:
    assert "images_excluded" not in build(raw).index.texts


def test_excluded_images_are_in_no_split_and_the_holdout_keeps_its_size(raw: RawFolder) -> None:
    (raw.path / "ids.txt").write_text("1 2\n")
    train = build(raw, exclude=(str(raw.path / "ids.txt"),), holdout=2)
    val = open_set(raw.path / "shards" / "token" / "val")
    assert set(train.keys) | set(val.keys) == coco(3, 4, 5, 6)
    assert len(val.keys) == 2


def test_any_file_that_names_images_serves(raw: RawFolder, splits: dict[str, str]) -> None:
    captions = str(write_json(raw.path / "test.json", captions_json([(2, "x")])))
    shards = build(raw, exclude=(captions, f"{splits['karpathy']}#val"))
    assert set(shards.keys) == coco(1, 4, 5, 6)


def test_named_splits_come_from_the_files_that_define_them(raw: RawFolder, splits: dict[str, str]) -> None:
    files = (splits["nominival"], splits["karpathy"], splits["minival"])
    for names, left in (
        (("karpathy-test",), coco(1, 2, 3, 6)),
        (("karpathy-val",), coco(1, 2, 4, 5, 6)),
        (("minival",), coco(1, 2, 3, 4, 5)),
        (("minival", "karpathy-test", "karpathy-val"), coco(1, 2)),
    ):
        assert set(build(raw, exclude=names, splits=files).keys) == left


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("minival", r"mscoco_minival\.json of LXMERT"),
        ("karpathy-val", r"dataset_coco\.json of Karpathy"),
        ("karpathy-test", r"dataset_coco\.json of Karpathy"),
    ],
)
def test_a_split_without_its_file_says_which_file_and_how(
    raw: RawFolder, splits: dict[str, str], name: str, file: str
) -> None:
    with pytest.raises(
        InputError, match=rf"^{file}.* defines which images are {name}; give that file with --splits FILE$"
    ):
        build(raw, exclude=(name,), splits=(splits["nominival"],))


def test_a_coco_image_is_left_out_for_its_genome_duplicate(raw: RawFolder) -> None:
    (raw.path / "ids.txt").write_text("102\n")
    shards = build(raw, exclude=(f"vg:{raw.path}/ids.txt",))
    assert set(shards.keys) == coco(1, 3, 4, 5, 6)
    assert (shards.index.texts["images_excluded"], shards.index.texts["images_excluded_as_duplicates"]) == (1, 1)


def test_a_genome_image_is_left_out_for_its_coco_duplicate(raw: RawFolder) -> None:
    genome = write_tsv(raw.path / "genome.tsv", [Row(number, image_id=str(number)) for number in (101, 103)])
    (raw.path / "ids.txt").write_text("1\n")
    shards = build(raw, regions=(f"vg:{genome}",), exclude=(str(raw.path / "ids.txt"),))
    assert shards.keys == ("vg-103",)


@pytest.mark.parametrize(("image_data", "fault"), [(None, "may be COCO images"), ("short", "lacks 1 of 2")])
def test_duplicates_that_cannot_be_identified_stop_the_build(
    raw: RawFolder, image_data: str | None, fault: str
) -> None:
    genome = write_tsv(raw.path / "genome.tsv", [Row(number, image_id=str(number)) for number in (101, 104)])
    (raw.path / "ids.txt").write_text("1\n")
    table = raw.recipe.image_data if image_data else None
    with pytest.raises(InputError, match=f"^--exclude cannot be kept: .*{fault}"):
        build(raw, regions=(f"vg:{genome}",), exclude=(str(raw.path / "ids.txt"),), image_data=table)


@pytest.mark.parametrize(
    ("renumbered_regions", "excluded", "unchecked"),
    [(["n7", "n8"], "coco-1", 2), (["n7"], "coco-1 vg-n9 vg-n10", 3), ([], "vg-n9", 1), (["n7"], "f30k-5", 0)],
)
def test_images_that_gqa_renumbered_are_counted_as_unchecked(
    raw: RawFolder, renumbered_regions: list[str], excluded: str, unchecked: int
) -> None:
    rows = [Row(place, image_id=image_id) for place, image_id in enumerate(renumbered_regions)]
    regions = (*raw.recipe.regions, *([f"vg:{write_tsv(raw.path / 'genome.tsv', rows)}"] if rows else []))
    (raw.path / "ids.txt").write_text(excluded)
    shards = build(raw, regions=regions, exclude=(str(raw.path / "ids.txt"),))
    assert shards.index.texts["images_unchecked_of_gqa_test"] == unchecked


def test_texts_of_excluded_images_need_no_regions(raw: RawFolder) -> None:
    write_json(raw.path / "captions.json", captions_json([(1, "A dog."), (9, "A ball.")]))
    (raw.path / "ids.txt").write_text("9\n")
    shards = build(raw, "sentence", exclude=(str(raw.path / "ids.txt"),), allow_missing=False)
    assert (set(shards.keys), shards.index.texts["images_without_regions"]) == (coco(1), 0)


def test_excluding_everything_is_refused(raw: RawFolder) -> None:
    (raw.path / "ids.txt").write_text("1 2 3 4 5 6")
    with pytest.raises(InputError, match="--exclude leaves nothing of 6 images"):
        build(raw, exclude=(str(raw.path / "ids.txt"),))


def test_a_list_that_cannot_be_read_is_refused(raw: RawFolder) -> None:
    for name, fault in (("none.txt", "none.txt is missing"), ("karpathy_test", "karpathy_test is missing")):
        with pytest.raises(InputError, match=fault):
            build(raw, exclude=(name,))


def test_a_recipe_without_regions_of_the_excluded_images_builds_the_same_bytes(raw: RawFolder, tmp_path: Path) -> None:
    (raw.path / "ids.txt").write_text("5 6")
    excluded = build(raw, "token", exclude=(str(raw.path / "ids.txt"),))
    write_tsv(raw.path / "regions.tsv", [Row(number) for number in range(1, 5)])
    recipe: Recipe = raw.recipe
    build_shards(recipe, stage="token", out=tmp_path)
    never_there = open_set(tmp_path / "token" / "train")
    assert [path.read_bytes() for path in excluded.shard_paths] == [p.read_bytes() for p in never_there.shard_paths]
