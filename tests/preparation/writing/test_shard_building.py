"""From raw files to shard sets."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from raw_files import RawFolder, Row, captions_json, ids, snapshot, write_json, write_npz, write_tsv

from msp_ds.data.format.requirements import require_same_words
from msp_ds.data.format.set_layout import STAGE_NAMES, StageName
from msp_ds.data.format.shards import ShardSet, open_set, read_record
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import Recipe, WorldRecipe, load_recipe
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.preparation.writing.shard_building import build_shards, held_out, plan_build
from msp_ds.stateless_random import key_of

ROOT = Path(__file__).resolve().parents[3]


def build(raw: RawFolder, stage: StageName, **changes: Any) -> ShardSet:
    """The train set of a stage in raw.path/shards."""
    build_shards(dataclasses.replace(raw.recipe, **changes), stage=stage, out=raw.path / "shards")
    return open_set(raw.path / "shards" / stage / "train")


def texts_of(shards: ShardSet) -> dict[str, list[str]]:
    return {key: read_record(shards, row)[1] for row, key in enumerate(shards.keys)}


def test_the_token_stage_tells_the_labels_in_region_order(raw: RawFolder) -> None:
    shards = build(raw, "token")
    # Regions 0, 1, 2 of every image are dog, red hat, no label.
    assert texts_of(shards) == {f"coco-{number}": ["dog red hat"] for number in range(1, 7)}
    assert shards.pairs.token_ids[:5].tolist() == ids("[CLS]", "dog", "red", "hat", "[SEP]")
    assert shards.pairs.word_positions[:5].tolist() == [1, 2, 3, 4, 1]
    assert shards.index.max_tokens == 64


def test_the_phrase_stage_has_the_phrases_without_verbs_of_the_duplicate(raw: RawFolder) -> None:
    shards = build(raw, "phrase")
    assert texts_of(shards) == {"coco-1": ["red hat, a big dog"], "coco-2": ["the tail"]}
    expected = {"phrases_read": 5, "phrases_repeated": 1, "phrases_with_verbs": 1, "phrases_empty": 1, "kept": 2}
    assert {name: shards.index.texts[name] for name in expected} == expected
    assert shards.index.texts["images_without_text"] == 4


def test_a_file_name_that_is_no_text_is_spelled_out(raw: RawFolder) -> None:
    name = os.fsdecode(bytes(raw.path) + b"/r\xff.tsv")
    (raw.path / "regions.tsv").rename(name)
    shards = build(raw, "token", regions=(name,))
    assert read_record(shards, 0)[0].source == r"r\udcff.tsv row 1"
    with pytest.raises(InputError, match=r"^extractor: .* holds half a character"):
        dataclasses.replace(raw.recipe, extractor=os.fsdecode(b"\xff"))


def test_phrases_can_be_cut_from_captions(raw: RawFolder) -> None:
    shards = build(raw, "phrase", phrases=("from-captions",))
    assert set(texts_of(shards)["coco-3"]) == {"a red dog, the horse, a ball"}


def test_long_phrase_lists_become_several_texts(raw: RawFolder) -> None:
    shards = build(raw, "phrase", max_tokens={"phrase": 6})
    assert texts_of(shards)["coco-1"] == ["red hat", "a big dog"]


def test_the_sentence_stage_tells_captions(raw: RawFolder) -> None:
    shards = build(raw, "sentence", max_tokens={"sentence": 5})
    assert texts_of(shards)["coco-4"] == ["A red dog.", "the horse on a ball"]
    assert shards.pairs.image_rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert shards.pairs.keys[1] == key_of("coco-1\n1\nthe horse on a ball")
    assert shards.index.texts["truncated"] == 12


def test_hard_negatives_serve_the_sentence_stage_alone(raw: RawFolder) -> None:
    rows = build(raw, "sentence").hard_negatives
    assert rows is not None
    assert rows.tolist() == [[place + 1 if place < 5 else 0, (place + 2) % 6, -1] for place in range(6)]
    assert build(raw, "token").hard_negatives is None


def test_regions_survive_the_way_through_the_tar(raw: RawFolder) -> None:
    shards = build(raw, "token")
    for number in range(1, 7):
        record, _ = read_record(shards, number - 1)
        source = Row(number)
        np.testing.assert_array_equal(record.features, source.features.astype(np.float16))
        np.testing.assert_array_equal(record.boxes, source.boxes)
        np.testing.assert_array_equal(record.object_ids, source.object_ids)
        np.testing.assert_array_equal(record.attribute_scores, source.attribute_scores)
        assert (record.height, record.width, record.source) == (48, 64, f"regions.tsv row {number}")
    every = np.concatenate([Row(number).features.astype(np.float16) for number in range(1, 7)])
    np.testing.assert_allclose(shards.feature_mean, every.astype(np.float64).mean(axis=0), rtol=1e-6)


def test_the_same_files_give_the_same_bytes(raw: RawFolder, tmp_path: Path) -> None:
    other = RawFolder.write(tmp_path / "elsewhere")
    for folder in (raw, other):
        build_shards(dataclasses.replace(folder.recipe, holdout=2), stage="sentence", out=folder.path / "shards")
    assert snapshot(raw.path / "shards") == snapshot(other.path / "shards")


def test_all_stages_hold_out_the_images_with_the_smallest_keys(raw: RawFolder) -> None:
    by_key = sorted((f"coco-{number}" for number in range(1, 7)), key=lambda name: key_of(f"holdout\n{name}"))
    stages: tuple[StageName, ...] = ("token", "sentence")
    for stage in stages:
        train = build(raw, stage, holdout=2)
        val = open_set(raw.path / "shards" / stage / "val")
        assert set(val.keys) == set(by_key[:2])
        assert set(train.keys) == set(by_key[2:])


def test_hard_negatives_stay_within_the_split(raw: RawFolder) -> None:
    train = build(raw, "sentence", holdout=2)
    assert train.hard_negatives is not None
    for row, key in enumerate(train.keys):
        number = int(key.split("-")[1])
        wanted = [f"coco-{(number - 1 + step) % 6 + 1}" for step in (1, 2)]
        found = [train.keys[other] for other in train.hard_negatives[row] if other >= 0]
        assert found == [key for key in wanted if key in train.keys]


def test_both_splits_share_one_list_of_hard_negatives(raw: RawFolder) -> None:
    recipe = dataclasses.replace(raw.recipe, holdout=2)
    plans = plan_build(recipe, files=list_region_files(recipe.regions), stage="sentence").plans
    assert {split: plan.split for split, plan in plans.items()} == {"train": "train", "val": "val"}
    assert plans["train"].hard_negatives is plans["val"].hard_negatives is not None


def test_without_a_holdout_an_old_validation_set_goes(raw: RawFolder) -> None:
    build(raw, "token", holdout=2)
    build(raw, "token")
    assert not (raw.path / "shards" / "token" / "val").exists()


def test_a_genome_image_whose_duplicate_has_regions_is_left_out(raw: RawFolder) -> None:
    rows = [Row(101, image_id="101"), Row(103, image_id="103")]
    genome = write_tsv(raw.path / "genome.tsv", rows)
    shards = build(raw, "token", regions=(*raw.recipe.regions, f"vg:{genome}"))
    assert shards.keys == (*(f"coco-{number}" for number in range(1, 7)), "vg-103")
    assert shards.index.texts["duplicates_left_out"] == 1


def test_phrases_stay_with_the_genome_image_when_its_duplicate_has_no_regions(raw: RawFolder) -> None:
    genome = write_tsv(raw.path / "genome.tsv", [Row(101, image_id="101"), Row(102, image_id="102")])
    shards = build(raw, "phrase", regions=(f"vg:{genome}",))
    assert texts_of(shards) == {"vg-101": ["red hat, a big dog"], "vg-102": ["the tail"]}


def test_images_without_labels_have_no_token_text_and_are_counted(raw: RawFolder) -> None:
    write_tsv(raw.path / "regions.tsv", [Row(1), Row(2, object_ids=np.full(3, -1, "<i8"))])
    shards = build(raw, "token")
    assert (shards.keys, shards.index.texts["images_without_text"]) == (("coco-1",), 1)


def test_texts_without_regions_are_left_out_only_when_told(raw: RawFolder) -> None:
    write_tsv(raw.path / "regions.tsv", [Row(4), Row(6)])
    with pytest.raises(
        InputError, match=r"^4 of 6 images with texts have no regions, the first is coco-1; .*--allow-m"
    ):
        build(raw, "sentence")
    shards = build(raw, "sentence", allow_missing=True)
    assert (shards.keys, shards.index.texts["images_without_regions"]) == (("coco-4", "coco-6"), 4)


def test_several_files_and_kinds_of_files_make_one_set(raw: RawFolder) -> None:
    write_tsv(raw.path / "regions.tsv", [Row(number) for number in range(3, 7)])
    npz = write_npz(raw.path / "more.npz")
    shards = build(raw, "token", regions=(str(npz), *raw.recipe.regions))
    assert shards.keys == tuple(f"coco-{number}" for number in range(1, 7))


def test_a_trained_vocabulary_is_the_same_in_all_stages(raw: RawFolder) -> None:
    stages: tuple[StageName, ...] = ("token", "phrase", "sentence")
    sums = {build(raw, stage, vocab="trained").index.vocabulary_sha256 for stage in stages}
    assert len(sums) == 1


def test_the_index_keeps_what_the_recipe_says(raw: RawFolder) -> None:
    index = build(raw, "token", preset="tiny").index
    assert (index.extractor, index.preset, index.stage, index.split) == ("by hand", "tiny", "token", "train")
    assert (index.num_objects, index.num_attributes, index.num_regions, index.feature_width) == (3, 2, 3, 4)


def test_progress_ends_at_the_total(raw: RawFolder) -> None:
    class Steps:
        def __init__(self) -> None:
            self.works: list[list[Any]] = []

        def start(self, label: str, total: int | None) -> None:
            self.works.append([label, total, 0])

        def advance(self, amount: int) -> None:
            self.works[-1][2] += amount

    steps = Steps()
    build_shards(raw.recipe, stage="token", out=raw.path / "shards", progress=steps)
    size = (raw.path / "regions.tsv").stat().st_size
    assert steps.works == [["reading image ids (bytes)", size, size], ["writing shards (bytes read)", size, size]]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_regions_make_the_same_set(raw: RawFolder, ending: str) -> None:
    plain = build(raw, "token", holdout=2)
    records = [read_record(plain, row)[0] for row in range(len(plain.keys))]
    data = (raw.path / "regions.tsv").read_bytes()
    packed = raw.path / f"regions.tsv.{ending}"
    packed.write_bytes(gzip.compress(data) if ending == "gz" else zstandard.ZstdCompressor().compress(data))
    unpacked = build(raw, "token", holdout=2, regions=(str(packed),))
    assert unpacked.keys == plain.keys
    np.testing.assert_array_equal(unpacked.pairs.token_ids, plain.pairs.token_ids)
    for row, one in enumerate(records):
        other, _ = read_record(unpacked, row)
        assert other.source == one.source.replace(".tsv", f".tsv.{ending}")
        np.testing.assert_array_equal(other.features, one.features)


def test_the_holdout_does_not_depend_on_the_order_of_images() -> None:
    names = [f"coco-{number}" for number in range(50)]
    assert held_out(frozenset(names), 7) == held_out(frozenset(reversed(names)), 7)
    assert held_out(frozenset(names), 7) < held_out(frozenset(names), 8)


def test_images_that_pairs_connect_are_set_apart_together() -> None:
    names = [f"coco-{number}" for number in range(12)]
    # Three chains of 2, 3 and 4 images; the rest stands alone.
    pairs = [(names[a], names[b]) for a, b in ((0, 1), (2, 3), (4, 3), (5, 6), (7, 8), (6, 7))]
    for count in (2, 5, 6, 7, 9):
        apart = held_out(frozenset(names), count, pairs=pairs)
        assert all((one in apart) == (other in apart) for one, other in pairs)
        assert count / 2 <= len(apart) <= count
    assert held_out(frozenset(names), 9, pairs=pairs) == frozenset(names[:9])
    one_chain = list(itertools.pairwise(names))
    assert held_out(frozenset(names), 4, pairs=one_chain) == held_out(frozenset(names), 4)


NAN = np.full((3, 4), np.nan, "<f4")
BAD_ROWS = {
    "foreign image id": ([Row(1), Row(2, image_id="cat")], "'cat' is no image id"),
    "image twice": ([Row(1), Row(1, height=49)], "image coco-1: comes twice, first in regions.tsv row 1 (byte 0)"),
    "label beyond the vocabulary": ([Row(1), Row(2, object_ids=np.array([0, 1, 3]))], "object id 3 of region 2"),
    "NaN feature": ([Row(1), Row(2, features=NAN)], "feature 0 of region 0 is nan"),
    "wrong base64 length": ([Row(1), Row(2, boxes=np.ones((2, 4), "<f4"))], "boxes holds 32 bytes instead of 48"),
    "another feature width": (
        [Row(1), Row(2, features=np.ones((3, 5), "<f4"))],
        "5 wide, those of the images before 4",
    ),
    "no label at all": ([Row(1, object_ids=np.full(3, -1))], "no image with a text is left"),
}
BAD_FILES = {
    "truncated row": ("regions.tsv", b"1\t48\t64\tAAA", "has 4 columns instead of 10"),
    "empty regions": ("regions.tsv", b"", "is empty"),
    "empty caption file": ("captions.json", b"", "is not valid JSON"),
    "no captions": ("captions.json", b'{"annotations": []}', "holds no caption"),
    "cut phrases": ("region_descriptions.json", b'[{"id": 1', "cut off or damaged"),
    "empty labels": ("objects_vocab.txt", b"", "line 1 is empty"),
    "empty vocabulary": ("vocab.txt", b"", "lacks the special piece"),
    "broken hard negatives": ("hard_negatives.npz", b"PK", "is not a readable archive"),
    "broken image data": ("image_data.json", b"{}", "is not a list"),
}
STAGE_OF: dict[str, StageName] = {
    "regions.tsv": "token",
    "region_descriptions.json": "phrase",
    "captions.json": "sentence",
}


def refused(raw: RawFolder, recipe: Recipe, stage: StageName, fault: str) -> None:
    """A build fails in one line, leaves nothing new, and leaves the set that was there."""
    out = raw.path / "shards"
    before = snapshot(out)
    with pytest.raises(InputError) as caught:
        build_shards(recipe, stage=stage, out=out)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(out) == before


@pytest.mark.parametrize("with_old_set", [False, True])
@pytest.mark.parametrize(("rows", "fault"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_stop_the_build_and_leave_no_trace(
    raw: RawFolder, rows: list[Row], fault: str, with_old_set: bool
) -> None:
    if with_old_set:
        build(raw, "token", holdout=2)
    write_tsv(raw.path / "regions.tsv", rows)
    refused(raw, raw.recipe, "token", fault)


@pytest.mark.parametrize(("name", "data", "fault"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_stop_the_build_and_leave_no_trace(raw: RawFolder, name: str, data: bytes, fault: str) -> None:
    stage = STAGE_OF.get(name, "sentence")
    build(raw, stage)
    (raw.path / name).write_bytes(data)
    refused(raw, raw.recipe, stage, fault)


@pytest.mark.parametrize(
    ("changes", "stage", "fault"),
    [
        ({"regions": ()}, "token", "names no regions; give them with --regions FILE"),
        ({"regions": ("none.tsv",)}, "token", "none.tsv is missing"),
        ({"objects_vocab": ""}, "token", "give them with --objects-vocab FILE"),
        ({"attributes_vocab": "none.txt"}, "token", "none.txt cannot be read"),
        ({"captions": ()}, "sentence", "stage sentence needs captions"),
        ({"captions": ("none.json",)}, "sentence", "none.json is missing"),
        ({"captions": ("a.json", "a.json")}, "sentence", "names a.json twice among its captions"),
        ({"phrases": ()}, "phrase", "stage phrase needs phrases"),
        ({"phrases": ("none.json",)}, "phrase", "none.json is missing"),
        ({"vocab": "none.txt"}, "token", "none.txt cannot be read"),
        ({"hard_negatives": "none.npz"}, "sentence", "none.npz is missing"),
        ({"image_data": "none.json"}, "token", "none.json is missing"),
        ({"holdout": 6}, "token", "a holdout of 6 leaves nothing of 6 images"),
        ({"holdout": 5}, "phrase", "no image with a text is left for"),
    ],
)
def test_what_a_recipe_lacks_is_told(raw: RawFolder, changes: dict[str, Any], stage: StageName, fault: str) -> None:
    refused(raw, dataclasses.replace(raw.recipe, **changes), stage, fault)


def test_a_full_disk_leaves_the_old_set(raw: RawFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    build(raw, "token", holdout=2)
    with monkeypatch.context() as patch:

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("os.fsync", full)
        refused(raw, raw.recipe, "token", "shards/token cannot be written (No space left on device)")


def test_a_file_in_the_place_of_the_folder_is_refused(raw: RawFolder) -> None:
    (raw.path / "shards").write_text("mine")
    with pytest.raises(InputError, match=r"shards/token cannot be written .* name another --out"):
        build(raw, "token")
    assert (raw.path / "shards").read_text() == "mine"


def test_a_caption_of_an_unknown_image_names_its_annotation(raw: RawFolder) -> None:
    write_json(raw.path / "captions.json", captions_json([("cat", "A dog.")]) | {"images": []})
    refused(raw, raw.recipe, "sentence", "captions.json annotation 0: 'cat' is no image id")


def test_real_samples_become_sets(real_data: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        regions=(str(real_data / "regions_npz"),),
        objects_vocab=str(real_data / "regions_npz" / "objects_vocab.txt"),
        attributes_vocab=str(real_data / "regions_npz" / "attributes_vocab.txt"),
        captions=(str(real_data / "coco" / "captions_val2017_sample.json"),),
        vocab=str(real_data / "vocab" / "bert-base-uncased-vocab.txt"),
        holdout=64,
    )
    reports = build_shards(recipe, stage="sentence", out=tmp_path)
    counts = json.loads((tmp_path / "sentence" / "train" / "index.json").read_text())["texts"]
    assert (reports["train"].num_images, reports["val"].num_images) == (448, 64)
    assert reports["train"].num_pairs + reports["val"].num_pairs == 2561
    assert counts["captions_empty"] == counts["clipped_boxes"] == 0


def test_the_demo_recipe_makes_three_sets_from_a_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = load_recipe(ROOT / "shards" / "demo.toml")
    recipe = dataclasses.replace(whole, holdout=8, world=WorldRecipe(out="world", images=40, feature_width=32))
    held: list[set[str]] = []
    for stage in STAGE_NAMES:
        reports = build_shards(recipe, stage=stage, out=Path("shards"))
        assert reports["train"].num_pairs > 0
        held.append(set(open_set(Path("shards") / stage / "val").keys))
    assert len(held[0]) == 8
    # Images of the world without a duplicate in Visual Genome have no phrases.
    assert held[1] < held[0] == held[2]
    assert open_set(Path("shards/sentence/train")).hard_negatives is not None
    require_same_words(*(open_set(Path("shards") / stage / "train") for stage in ("token", "sentence")))
