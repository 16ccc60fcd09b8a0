"""Images that two data sets share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from raw_files import RawFolder, captions_json, karpathy_json, write_json

from msp_ds.errors import InputError
from msp_ds.preparation.overlap import Overlap, audit, find_overlap, same_pictures, unchecked_duplicates
from msp_ds.preparation.sources.text_files import read_image_ids
from msp_ds.preparation.sources.visual_genome import NO_DUPLICATES, CocoDuplicates
from msp_ds.preparation.writing.shard_building import build_shards

TABLE = CocoDuplicates(
    coco_of={"vg-101": "coco-1", "vg-102": "coco-2", "vg-901": "coco-1"},
    images=frozenset({"vg-101", "vg-102", "vg-103", "vg-901"}),
)


def ids(text: str) -> frozenset[str]:
    return frozenset(text.split())


def write_ids(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("one", "other", "by_id", "by_duplicate"),
    [
        ("coco-1 coco-10 coco-9", "coco-10 coco-9 coco-2", ("coco-9", "coco-10"), ()),
        ("coco-1 coco-3", "vg-101 vg-103", (), (("coco-1", "vg-101"),)),
        ("vg-101 vg-103", "coco-1", (), (("vg-101", "coco-1"),)),
        ("vg-101", "vg-901", (), (("vg-101", "vg-901"),)),
        ("vg-101 coco-1", "coco-1", ("coco-1",), (("vg-101", "coco-1"),)),
        ("coco-7", "vg-7 f30k-7 nlvr2-dev-7-0-img0", (), ()),
    ],
)
def test_overlap_is_found_by_id_and_by_duplicate(
    one: str, other: str, by_id: tuple[str, ...], by_duplicate: tuple[tuple[str, str], ...]
) -> None:
    found = find_overlap(ids(one), ids(other), TABLE)
    assert found == Overlap(by_id=by_id, by_duplicate=by_duplicate)
    assert bool(found) is bool(by_id or by_duplicate)


def test_pictures_are_found_under_any_id() -> None:
    everything = ids("coco-1 vg-101 vg-901 coco-2 vg-103")
    assert same_pictures(everything, ids("vg-901"), TABLE) == ids("coco-1 vg-101 vg-901")
    assert same_pictures(everything, ids("vg-901"), NO_DUPLICATES) == ids("vg-901")


@pytest.mark.parametrize(
    ("one", "other", "table", "reason"),
    [
        ("vg-101", "coco-5", NO_DUPLICATES, "1 images of Visual Genome (the first is vg-101) may be COCO images"),
        ("coco-5", "vg-101 vg-99", NO_DUPLICATES, "2 images of Visual Genome (the first is vg-99) may be COCO images"),
        ("coco-5", "vg-104", TABLE, "lacks 1 of 1 images of Visual Genome, the first is vg-104"),
        ("coco-5", "vg-103", TABLE, ""),
        ("vg-5", "vg-6", NO_DUPLICATES, ""),
        ("coco-5 f30k-1", "coco-6", NO_DUPLICATES, ""),
        ("vg-n5", "coco-5", NO_DUPLICATES, ""),
    ],
)
def test_duplicates_that_no_table_covers_are_named(one: str, other: str, table: CocoDuplicates, reason: str) -> None:
    message = unchecked_duplicates(ids(one), ids(other), table)
    assert message.startswith(reason) if not reason else reason in message


def test_a_planted_duplicate_in_a_shard_set_is_found(raw: RawFolder, tmp_path: Path) -> None:
    build_shards(raw.recipe, stage="token", out=tmp_path)  # COCO's images 1 to 6
    genome = write_json(tmp_path / "gqa.json", {"07": {"imageId": "102"}, "08": {"imageId": "103"}})
    found = audit([str(tmp_path / "token" / "train")], [str(genome)], image_data=raw.recipe.image_data)
    assert found.overlap == Overlap(by_id=(), by_duplicate=(("coco-2", "vg-102"),))


def test_files_of_any_layout_are_compared_pair_by_pair(tmp_path: Path) -> None:
    captions = str(write_json(tmp_path / "captions.json", captions_json([(70, "x"), (73, "x"), (80, "x")])))
    splits = write_json(
        tmp_path / "dataset_coco.json", karpathy_json([("train", 70, []), ("test", 73, []), ("val", 74, [])])
    )
    minival = str(write_json(tmp_path / "mscoco_minival.json", [{"img_id": "COCO_val2014_000000000080", "sentf": {}}]))
    found = audit([captions], [f"{splits}#test", f"{splits}#val", minival])
    assert {names[1]: pair.by_id for names, pair in found.pairs.items()} == {
        f"{splits}#test": ("coco-73",),
        f"{splits}#val": (),
        minival: ("coco-80",),
    }
    assert found.overlap.by_id == ("coco-73", "coco-80")
    assert (found.unchecked, found.warnings) == ("", ())


def test_nothing_found_is_no_result_where_duplicates_were_not_checked(tmp_path: Path) -> None:
    coco, genome = write_ids(tmp_path / "a.txt", "coco-5"), write_ids(tmp_path / "b.txt", "vg-101")
    with pytest.raises(InputError, match=r"^no image is in both by id, but 1 images .* --image-data FILE"):
        audit([coco], [genome]).require_certainty()
    mixed = write_ids(tmp_path / "c.txt", "vg-101 coco-5")
    audit([coco], [mixed]).require_certainty()  # what was found is certain


def test_images_that_no_table_covers_are_warned_of(tmp_path: Path) -> None:
    genome = str(write_json(tmp_path / "gqa.json", {"1": {"imageId": "n16"}, "2": {"imageId": "103"}}))
    coco = write_ids(tmp_path / "a.txt", "coco-5")
    flickr = write_ids(tmp_path / "b.txt", "f30k-5")
    image_data = str(write_json(tmp_path / "image_data.json", [{"image_id": 103, "coco_id": None}]))
    found = audit([coco], [genome, flickr], image_data=image_data)
    assert (found.unchecked, bool(found.overlap)) == ("", False)
    assert [warning[:20] for warning in found.warnings] == ["1 images have GQA's ", "Flickr30k, COCO and "]
    assert audit([flickr], [flickr]).warnings == ()


def test_the_written_list_serves_to_exclude(raw: RawFolder, tmp_path: Path) -> None:
    train = write_ids(tmp_path / "a.txt", "coco-1 coco-2 coco-5")
    evaluation = write_ids(tmp_path / "b.txt", "vg-102 coco-5 vg-103")
    audit([train], [evaluation], image_data=raw.recipe.image_data).write(tmp_path / "shared.txt")
    assert read_image_ids(str(tmp_path / "shared.txt")) == {"coco-2", "vg-102", "coco-5"}
    recipe = dataclasses.replace(raw.recipe, exclude=(str(tmp_path / "shared.txt"),))
    build_shards(recipe, stage="token", out=tmp_path)
    after = audit([str(tmp_path / "token" / "train")], [evaluation], image_data=raw.recipe.image_data)
    assert not after.overlap


def test_what_cannot_be_written_or_read_is_refused(tmp_path: Path) -> None:
    train = write_ids(tmp_path / "a.txt", "coco-1")
    with pytest.raises(InputError, match=r"cannot be written .* --out"):
        audit([train], [train]).write(tmp_path / "nowhere" / "a.txt")
    with pytest.raises(InputError, match=r"name a shard set or a file with --train PATH"):
        audit([], [train])
    with pytest.raises(InputError, match=r"has no index.json"):
        audit([train], [str(tmp_path)])
