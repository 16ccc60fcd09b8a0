"""Pictures of one's own names, from regions and captions to shards."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import RawFolder, Row, write_npz, write_tsv

from msp_ds.data.format.shards import ShardSet, open_set, read_record
from msp_ds.errors import InputError
from msp_ds.preparation.writing.shard_building import build_shards

NAMES = ["IMG_2031.JPG", "café au lait.png"]
IDS = ("own-img-2031", "own-cafe-au-lait")
NO_ATTRIBUTES = {"attrs_id": None, "attrs_conf": None}


@pytest.fixture
def own(raw: RawFolder) -> RawFolder:
    """Two pictures of their own names, with captions in a CSV."""
    write_tsv(raw.path / "regions.tsv", [Row(number, image_id=name) for number, name in enumerate(NAMES, start=1)])
    (raw.path / "captions.csv").write_text(f"file,caption\n{NAMES[0]},A red dog.\n{NAMES[1]},the horse on a ball\n")
    changes: dict[str, Any] = {"regions": (f"own:{raw.path}/regions.tsv",), "hard_negatives": None}
    return RawFolder(
        raw.path, dataclasses.replace(raw.recipe, captions=(f"{raw.path}/captions.csv",), image_data=None, **changes)
    )


def build(raw: RawFolder, stage: Any = "sentence", **changes: Any) -> ShardSet:
    build_shards(dataclasses.replace(raw.recipe, **changes), stage=stage, out=raw.path / "shards")
    return open_set(raw.path / "shards" / stage / "train")


def test_own_names_go_through_all_stages(own: RawFolder) -> None:
    for stage in ("token", "phrase", "sentence"):
        shards = build(own, stage, phrases=("from-captions",))
        assert shards.keys == IDS
    assert [read_record(shards, row)[1] for row in range(2)] == [["A red dog."], ["the horse on a ball"]]
    assert set(read_record(build(own, "phrase", phrases=("from-captions",)), 0)[1]) == {"a red dog"}


def test_two_files_of_one_id_are_refused_with_both_places(own: RawFolder) -> None:
    write_tsv(own.path / "regions.tsv", [Row(1, image_id="dog.jpg"), Row(2, image_id="dog.png")])
    with pytest.raises(InputError, match=r"row 2 .*image own-dog: comes twice, first in regions.tsv row 1"):
        build(own)


def test_texts_of_other_ids_show_those_of_the_regions(own: RawFolder) -> None:
    with pytest.raises(InputError, match=r"the first is coco-1; regions have ids like own-cafe-au-lait; add"):
        build(own, captions=(f"{own.path}/captions.json",))


def test_an_archive_of_one_picture_may_be_named_by_it(own: RawFolder) -> None:
    arrays = dict(np.load(write_npz(own.path / "two.npz")))
    (own.path / "one").mkdir()
    for row, name in enumerate(NAMES):
        one = {key: array[row] for key, array in arrays.items() if key != "image_id"}
        np.savez(own.path / "one" / f"{Path(name).stem}.npz", **one)
    assert set(build(own, regions=(f"own:{own.path}/one",)).keys) == set(IDS)


@pytest.mark.parametrize("attributes", [NO_ATTRIBUTES, {"attrs_id": np.full((2, 3), -1)}], ids=["absent", "none"])
def test_without_attributes_their_vocabulary_is_optional(own: RawFolder, attributes: dict[str, Any]) -> None:
    path = write_npz(own.path / "a.npz", image_id=np.array(NAMES), **attributes)
    shards = build(own, "token", regions=(f"own:{path}",), attributes_vocab="")
    assert (shards.index.num_objects, shards.index.num_attributes, shards.index.has_labels) == (3, 0, True)
    assert (shards.path / "attributes_vocab.txt").read_bytes() == b""
    assert (read_record(shards, 0)[0].attribute_ids == -1).all()


def test_with_one_attribute_the_vocabulary_is_needed(own: RawFolder) -> None:
    with pytest.raises(InputError, match="names no attributes_vocab; give them with --attributes-vocab FILE"):
        build(own, regions=(f"own:{write_npz(own.path / 'a.npz', image_id=np.array(NAMES))}",), attributes_vocab="")


def test_a_file_of_own_names_names_the_way_out(own: RawFolder) -> None:
    plain = str(own.path / "regions.tsv")
    way_out = f"write --regions own:{plain}, and name the image of a caption by its file or id"
    with pytest.raises(InputError, match=re.escape(way_out)) as refused:
        build(own, regions=(plain,), captions=(f"{own.path}/captions.json",))
    assert f"{NAMES[0]!r} is no image id of coco" in str(refused.value)
    assert build(own, regions=(f"own:{plain}",)).index.num_images == 2
