"""Regions without labels serve all stages but the token stage, and all tasks but those that predict labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from raw_files import NUM_IMAGES, RawFolder, Row, adaptive_row, snapshot, write_lines, write_npz

from msp_ds.data.format.requirements import require_labels
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.records import IGNORE

COUNTS = [10, 100, 36, 57, 11, 10]
"""Boxes of the six images."""


@pytest.fixture
def unlabelled(raw: RawFolder) -> RawFolder:
    """Bottom-up attention's adaptive features, and a recipe without label vocabularies."""
    rows = [adaptive_row(number, count).bottom_up_columns() for number, count in enumerate(COUNTS, start=1)]
    write_lines(raw.path / "regions.tsv", rows)
    return RawFolder(raw.path, dataclasses.replace(raw.recipe, objects_vocab="", attributes_vocab=""))


def build(raw: RawFolder) -> ShardSet:
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    return open_set(raw.path / "shards" / "sentence" / "train")


def test_the_token_stage_refuses_them_with_the_reason(unlabelled: RawFolder) -> None:
    with pytest.raises(InputError) as caught:
        build_shards(unlabelled.recipe, stage="token", out=unlabelled.path / "shards")
    assert str(caught.value) == (
        f"{unlabelled.path / 'regions.tsv'} holds regions without labels (1 of 1 files do), of which stage token makes "
        "its texts; LXMERT's TSV of 10 columns, VOLTA's of 13 and .npz with objects_id have them, and the other stages "
        "do without"
    )
    assert not snapshot(unlabelled.path / "shards")


def test_one_file_without_labels_is_enough(raw: RawFolder) -> None:
    path = write_npz(raw.path / "more.npz", objects_id=None, objects_conf=None)
    recipe = dataclasses.replace(raw.recipe, regions=(*raw.recipe.regions, str(path)))
    with pytest.raises(InputError, match=r"more.npz holds regions without labels \(1 of 2 files do\)"):
        build_shards(recipe, stage="token", out=raw.path / "shards")


def test_variable_numbers_of_boxes_carry_a_mask_to_the_batch(unlabelled: RawFolder) -> None:
    shards = build(unlabelled)
    reader = Reader(shards)
    assert shards.index.num_regions == 100
    pairs = torch.arange(len(reader.keys))
    batch = reader.read(
        pairs,
        images=reader.images,
        matched=torch.ones(len(pairs), dtype=torch.bool),
        random_regions=torch.zeros(len(pairs), 2),
    )
    assert batch.region_mask.sum(1).tolist() == [count for count in COUNTS for _ in range(2)]
    assert bool((batch.object_ids == IGNORE).all())
    assert not bool(batch.attribute_scores.any())
    for pair, row in enumerate(reader.images.tolist()):
        wanted = torch.from_numpy(adaptive_row(row + 1, COUNTS[row]).features).half()
        assert torch.equal(batch.features[pair, : COUNTS[row]], wanted)
        assert not bool(batch.features[pair, COUNTS[row] :].any())


def test_a_set_records_that_it_has_no_labels_and_no_label_names(unlabelled: RawFolder) -> None:
    shards = build(unlabelled)
    assert not shards.index.has_labels
    assert (shards.index.num_objects, shards.index.num_attributes) == (0, 0)
    assert shards.tables().object_pieces.shape[0] == 0


def test_vocabularies_may_be_named_all_the_same(raw: RawFolder, unlabelled: RawFolder) -> None:
    shards = build(RawFolder(raw.path, raw.recipe))
    assert not shards.index.has_labels
    assert (shards.index.num_objects, shards.index.num_attributes) == (3, 2)


def test_vocabularies_stay_needed_where_a_file_has_labels(raw: RawFolder) -> None:
    recipe = dataclasses.replace(raw.recipe, attributes_vocab="")
    with pytest.raises(InputError, match="give them with --attributes-vocab FILE"):
        build_shards(recipe, stage="sentence", out=raw.path / "shards")


def test_tasks_that_need_labels_are_refused_with_the_whole_fix(unlabelled: RawFolder, raw: RawFolder) -> None:
    with pytest.raises(ShardError) as caught:
        require_labels(build(unlabelled), tasks=["moc", "tits"])
    assert "which tasks moc, tits need; train without them: --drop moc --drop tits" in str(caught.value)
    write_lines(raw.path / "regions.tsv", [Row(number).columns() for number in range(1, NUM_IMAGES + 1)])
    require_labels(build(raw), tasks=["moc", "tits"])


def test_an_index_of_before_this_field_counts_as_labelled(raw: RawFolder) -> None:
    folder: Path = build(raw).path
    index = (folder / "index.json").read_text()
    assert ', "has_labels": true, "skipped": []' in index
    (folder / "index.json").write_text(index.replace(', "has_labels": true, "skipped": []', ""))
    assert open_set(folder).index.has_labels
