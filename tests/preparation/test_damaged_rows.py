"""Damaged rows of regions: repaired where nothing is guessed, else named, else, when listed, left out and listed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from raw_files import (
    RawFolder,
    Row,
    adaptive_row,
    captions_json,
    snapshot,
    write_json,
    write_lines,
    write_npz,
    write_tsv,
)

from msp_ds.data.format.faults import SkippedRow
from msp_ds.data.format.set_layout import Split
from msp_ds.data.format.shards import ShardSet, open_set, read_record
from msp_ds.errors import InputError
from msp_ds.preparation.verifying.inspection import inspect_set
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.preparation.writing.shard_writer import SetReport

NAN = np.full((3, 4), np.nan, "<f4")
ROW_BYTES = 264
"""Of a Row in a TSV."""


def line(row: Row) -> bytes:
    return b"\t".join(row.columns()) + b"\n"


def build(raw: RawFolder, **changes: object) -> dict[Split, SetReport]:
    recipe = dataclasses.replace(raw.recipe, **{"on_error": "skip", **changes})
    return build_shards(recipe, stage="sentence", out=raw.path / "shards")


def write_captions(raw: RawFolder, numbers: list[int]) -> None:
    write_json(raw.path / "captions.json", captions_json([(number, "A dog.") for number in numbers]))


def train_set(raw: RawFolder) -> ShardSet:
    return open_set(raw.path / "shards" / "sentence" / "train")


def write_damaged(path: Path) -> None:
    """Six rows: 2 has NaN features, 4 another image's boxes cut short, 6 is cut off."""
    rows = [Row(1), Row(2, features=NAN), Row(3), Row(4, boxes=np.ones((2, 4), "<f4")), Row(5), Row(6)]
    path.write_bytes(b"".join(line(row) for row in rows)[:-40])


def test_the_first_damaged_row_stops_the_build_and_names_the_fix(raw: RawFolder) -> None:
    write_damaged(raw.path / "regions.tsv")
    with pytest.raises(InputError, match=r"row 6 .*; leave out and list such rows with --on-error skip"):
        build(raw, on_error="fail")
    assert not snapshot(raw.path / "shards")


def test_damaged_rows_are_left_out_and_listed_in_the_index(raw: RawFolder) -> None:
    write_damaged(raw.path / "regions.tsv")
    reports = build(raw)
    shards = train_set(raw)
    assert shards.keys == ("coco-1", "coco-3", "coco-5")
    assert [(skipped.row, skipped.image_id) for skipped in shards.index.skipped] == [
        (6, "coco-6"),
        (2, "coco-2"),
        (4, "coco-4"),
    ]
    assert shards.index.skipped[1] == SkippedRow(
        source="regions.tsv",
        row=2,
        offset=ROW_BYTES,
        image_id="coco-2",
        reason="feature 0 of region 0 is nan; features must be finite and within float16",
    )
    assert "rows skipped 3" in reports["train"].describe()
    assert shards.index.texts["rows_skipped"] == 3


def test_what_is_skipped_does_not_depend_on_the_split(raw: RawFolder) -> None:
    write_damaged(raw.path / "regions.tsv")
    build(raw, holdout=2)
    lists = [open_set(raw.path / "shards" / "sentence" / split).index.skipped for split in ("train", "val")]
    assert lists[0] == lists[1]
    assert len(lists[0]) == 3
    listed = inspect_set(open_set(raw.path / "shards" / "sentence" / "val"))["set"]["skipped_rows"]
    assert all(f"{row.source} row {row.row}: {row.reason}" in listed for row in lists[0])


def test_an_exact_repeat_is_dropped_and_counted(raw: RawFolder) -> None:
    write_captions(raw, [1, 2, 3])
    rows = [Row(1), Row(2), Row(1), Row(3)]
    # The last row repeats too, without its line end.
    (raw.path / "regions.tsv").write_bytes(b"".join(line(row) for row in rows) + line(Row(2))[:-1])
    reports = build(raw, on_error="fail")
    shards = train_set(raw)
    assert shards.keys == ("coco-1", "coco-2", "coco-3")
    assert shards.index.texts["rows_repeated"] == 2
    assert shards.index.skipped == ()
    assert "rows repeated 2" in reports["train"].describe()


def test_a_repeat_with_other_content_names_both_rows(raw: RawFolder) -> None:
    write_captions(raw, [1, 3])
    write_tsv(raw.path / "regions.tsv", [Row(3), Row(1), Row(1, height=47)])
    with pytest.raises(InputError) as caught:
        build(raw, on_error="fail")
    assert str(caught.value).startswith(
        f"{raw.path / 'regions.tsv'} row 3 (byte {2 * ROW_BYTES}), image coco-1: comes twice, "
        f"first in regions.tsv row 2 (byte {ROW_BYTES})"
    )
    build(raw)
    shards = train_set(raw)
    assert shards.keys == ("coco-3", "coco-1")
    assert [skipped.row for skipped in shards.index.skipped] == [3]


def test_an_image_in_two_files_names_both(raw: RawFolder) -> None:
    path = write_npz(raw.path / "more.npz")
    regions = (*raw.recipe.regions, str(path))
    with pytest.raises(InputError, match=r"more.npz row 0, image coco-1: comes twice, first in regions.tsv row 1 "):
        build(raw, regions=regions, on_error="fail")
    build(raw, regions=regions)
    assert [(skipped.source, skipped.row) for skipped in train_set(raw).index.skipped] == [
        ("more.npz", 0),
        ("more.npz", 1),
    ]


def test_a_damaged_archive_of_a_folder_is_left_out_as_a_whole(raw: RawFolder) -> None:
    folder = raw.path / "npz"
    folder.mkdir()
    write_captions(raw, [3, 4])
    write_npz(folder / "a.npz", image_id=np.array([3, 4]))
    write_npz(folder / "b.npz")
    (folder / "b.npz").write_bytes((folder / "b.npz").read_bytes()[:700])
    with pytest.raises(InputError, match=r"b.npz: is not a readable archive .* --on-error skip"):
        build(raw, regions=(str(folder),), on_error="fail")
    build(raw, regions=(str(folder),))
    shards = train_set(raw)
    assert shards.keys == ("coco-3", "coco-4")
    assert [(skipped.source, skipped.row, skipped.image_id) for skipped in shards.index.skipped] == [("b.npz", 0, "")]


def test_captions_of_other_missing_images_stay_an_error(raw: RawFolder) -> None:
    write_captions(raw, [1, 2, 7])
    (raw.path / "regions.tsv").write_bytes(line(Row(1)) + line(Row(2))[:-40])
    with pytest.raises(InputError, match=r"1 of 3 images with texts have no regions, the first is coco-7; "):
        build(raw)


def test_nothing_but_damage_is_no_set(raw: RawFolder) -> None:
    write_captions(raw, [1, 2])
    write_tsv(raw.path / "regions.tsv", [Row(1, features=NAN), Row(2, features=NAN)])
    with pytest.raises(InputError, match="no image with a text is left"):
        build(raw)
    assert not snapshot(raw.path / "shards")


def test_repairs_leave_the_records_as_they_would_be_without_damage(raw: RawFolder) -> None:
    rows = [adaptive_row(number, 10) for number in range(1, 7)]
    write_lines(raw.path / "regions.tsv", [row.bottom_up_columns() for row in rows])
    build(raw, on_error="fail")
    sound = [read_record(train_set(raw), row)[0] for row in range(6)]
    wrapped = [
        [*row.bottom_up_columns()[:4], *(wrap(column) for column in row.bottom_up_columns()[4:])] for row in rows
    ]
    write_lines(raw.path / "regions.tsv", wrapped, end=b"\r\n")
    build(raw, on_error="fail")
    for row, expected in enumerate(sound):
        found, _ = read_record(train_set(raw), row)
        np.testing.assert_array_equal(found.features, expected.features)
        np.testing.assert_array_equal(found.boxes, expected.boxes)


def wrap(column: bytes) -> bytes:
    """As str(bytes) writes it, with the padding lost."""
    return b"b'" + column.rstrip(b"=") + b"'"
