"""What a finished tar leaves beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_files import ids, vocabulary

from msp_ds.data.format.text import WordPieces
from msp_ds.errors import InputError
from msp_ds.preparation.writing.shard_parts import ShardPart, ShardWriter, load_part, save_part
from msp_ds.records import RegionRecord

COUNTS = {"clipped_boxes": 2}


def record(number: int, *, regions: int = 2, width: int = 3) -> RegionRecord:
    """Every feature is the image's number."""
    return RegionRecord(
        image_id=f"coco-{number}",
        source=f"row {number}",
        height=4,
        width=4,
        features=np.full((regions, width), number, np.float16),
        boxes=np.zeros((regions, 4), np.float32),
        object_ids=np.zeros(regions, np.int16),
        object_scores=np.zeros(regions, np.float32),
        attribute_ids=np.zeros(regions, np.int16),
        attribute_scores=np.zeros(regions, np.float32),
    )


def writer(tar: Path) -> ShardWriter:
    return ShardWriter(tar, pieces=WordPieces(vocabulary()), max_tokens=4)


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return tmp_path / "000000.tar"


def written(tar: Path) -> ShardPart:
    """Image 5 with two texts, one of them cut, and image 7, of one region, with one."""
    with writer(tar) as shard:
        shard.add(record(5), ["a dog", "a big red dog"])
        shard.add(record(7, regions=1), ["the hat"])
        return shard.finish(COUNTS)


def test_a_part_knows_texts_and_sum(tar: Path) -> None:
    part = written(tar)
    assert part.facts.entry.keys == ("coco-5", "coco-7")
    assert part.facts.entry.bytes == tar.stat().st_size
    assert part.facts.entry.region_counts == (2, 1)
    assert (part.facts.num_truncated, part.facts.num_regions, part.facts.counts) == (1, 3, COUNTS)
    assert part.feature_sum.tolist() == [17.0, 17.0, 17.0]
    assert part.pairs["image_rows"].tolist() == [0, 0, 1]
    assert part.pairs["offsets"].tolist() == [0, 4, 8, 12]
    assert part.pairs["token_ids"][8:].tolist() == ids("[CLS]", "the", "hat", "[SEP]")


def test_a_saved_part_comes_back_for_the_same_recipe_alone(tar: Path) -> None:
    part = written(tar)
    assert load_part(tar, recipe_hash="this") is None
    save_part(part, tar=tar, recipe_hash="this")
    assert sorted(path.name for path in tar.parent.iterdir()) == ["000000.tar", "000000.tar.part"]
    loaded = load_part(tar, recipe_hash="this")
    assert loaded is not None
    assert loaded.facts == part.facts
    np.testing.assert_array_equal(loaded.feature_sum, part.feature_sum)
    for name, column in part.pairs.items():
        np.testing.assert_array_equal(loaded.pairs[name], column)
    assert load_part(tar, recipe_hash="that") is None


def test_a_saved_part_reads_its_pairs_from_the_disk(tar: Path) -> None:
    part = written(tar)
    saved = save_part(part, tar=tar, recipe_hash="this")
    assert list(saved.pairs) == list(part.pairs)
    assert saved.pairs["keys"].tolist() == part.pairs["keys"].tolist()
    assert saved.pairs["keys"] is not saved.pairs["keys"]
    tar.with_name("000000.tar.part").unlink()
    with pytest.raises(InputError, match=r"000000.tar.part is missing; it should be the part of a finished tar"):
        saved.pairs["keys"]


def test_a_part_is_worth_nothing_without_its_whole_tar(tar: Path) -> None:
    save_part(written(tar), tar=tar, recipe_hash="this")
    with tar.open("ab") as file:
        file.write(b"\0")
    assert load_part(tar, recipe_hash="this") is None
    tar.unlink()
    assert load_part(tar, recipe_hash="this") is None


@pytest.mark.parametrize("cut", [0, 10, 500, -10])
def test_a_damaged_part_is_worth_nothing(tar: Path, cut: int) -> None:
    save_part(written(tar), tar=tar, recipe_hash="this")
    part = tar.with_name("000000.tar.part")
    part.write_bytes(part.read_bytes()[:cut])
    assert load_part(tar, recipe_hash="this") is None


def test_a_shard_without_images_has_a_part_and_no_tar(tar: Path) -> None:
    with writer(tar) as shard:
        save_part(shard.finish(COUNTS), tar=tar, recipe_hash="this")
    assert [path.name for path in tar.parent.iterdir()] == ["000000.tar.part"]
    part = load_part(tar, recipe_hash="this")
    assert part is not None
    assert (part.num_images, part.facts.counts) == (0, COUNTS)


def test_an_unfinished_tar_goes(tar: Path) -> None:
    with writer(tar) as shard:
        shard.add(record(5), ["a dog"])
        assert [path.name for path in tar.parent.iterdir()] == ["000000.tar.tmp"]
        with pytest.raises(InputError, match=r"^row 6: features are 4 wide, those of the images before 3"):
            shard.add(record(6, width=4), ["a dog"])
    assert list(tar.parent.iterdir()) == []
