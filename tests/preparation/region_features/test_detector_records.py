"""The record of a detector in files of regions, and in the sets that are written from them."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import ATTRIBUTES, OBJECTS, RawFolder, snapshot, write_npz

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.hard_negative_list import HardNegativeList
from msp_ds.preparation.hard_negatives.make_hard_negatives import attach_hard_negatives
from msp_ds.preparation.region_features.region_files import common_detector, list_region_files
from msp_ds.preparation.region_features.region_npz import NpzRegions
from msp_ds.preparation.verifying.inspection import inspect_set
from msp_ds.preparation.writing.shard_building import build_shards

ONE = DetectorRecord(kind="vg", name="one", weights_sha256="a" * 64, settings={"selection": "caffe"})
OTHER = dataclasses.replace(ONE, name="other", settings={"selection": "max-nms"})


def write_part(path: Path, record: DetectorRecord | None, numbers: tuple[int, int] = (1, 2), **changes: Any) -> Path:
    """Two images by a detector."""
    path.parent.mkdir(exist_ok=True)
    detector = None if record is None else np.array(record.to_text())
    return write_npz(path, detector=detector, image_id=np.array(numbers), **changes)


def build(raw: RawFolder, **changes: Any) -> ShardSet:
    recipe = dataclasses.replace(raw.recipe, captions=(captions_of_two(raw.path),), hard_negatives=None, **changes)
    build_shards(recipe, stage="sentence", out=raw.path / "shards")
    return open_set(raw.path / "shards" / "sentence" / "train")


def captions_of_two(path: Path) -> str:
    (path / "two.csv").write_text("image_id,caption\ncoco-1,A red dog.\ncoco-2,A ball.\n")
    return str(path / "two.csv")


def test_an_archive_says_what_computed_its_features(tmp_path: Path) -> None:
    assert NpzRegions(write_part(tmp_path / "a.npz", ONE), "coco").detector == ONE
    assert NpzRegions(write_part(tmp_path / "b.npz", None), "coco").detector is None


@pytest.mark.parametrize("value", ["", "[]", '{"kind": "vg"}', '{"kind": 7}', ["a", "b"], 7.0, [b"x"]])
def test_a_broken_record_is_refused_with_the_command_that_writes_it_again(tmp_path: Path, value: Any) -> None:
    path = write_npz(tmp_path / "a.npz", detector=np.array(value))
    with pytest.raises(InputError, match=r"a\.npz holds a broken record of its detector .*again with: msp-ds regions"):
        _ = NpzRegions(path, "coco").detector


def test_the_index_has_the_record_and_its_description_as_extractor(raw: RawFolder) -> None:
    path = str(write_part(raw.path / "a.npz", ONE))
    shards = build(raw, regions=(path,), extractor="")
    assert shards.index.detector == ONE
    assert shards.index.extractor == ONE.describe() == "vg one (weights aaaaaaaa, selection caffe)"
    assert inspect_set(shards)["set"]["detector"] == ONE.describe()
    assert build(raw, regions=(path,), extractor="by hand").index.extractor == "by hand"


def test_hard_negatives_leave_the_record_in_the_index(raw: RawFolder) -> None:
    shards = build(raw, regions=(str(write_part(raw.path / "a.npz", ONE)),))
    neighbours = np.array([[1], [0]], np.int32)
    attach_hard_negatives(shards, HardNegativeList(image_ids=shards.keys, neighbours=neighbours))
    assert open_set(shards.path).index.detector == ONE


def test_an_index_without_a_record_has_no_key_for_it(raw: RawFolder) -> None:
    shards = build(raw, regions=(str(write_part(raw.path / "a.npz", None)),))
    assert shards.index.detector is None
    assert "detector" not in json.loads((shards.path / "index.json").read_text())


def test_parts_of_one_detector_may_differ_in_what_is_not_compared(raw: RawFolder) -> None:
    again = dataclasses.replace(ONE, name="moved", versions={"torch": "9"})
    parts = [write_part(raw.path / "a.npz", ONE, (1, 3)), write_part(raw.path / "b.npz", again, (2, 4))]
    assert build(raw, regions=tuple(map(str, parts))).index.detector == ONE


@pytest.mark.parametrize("other", [OTHER, None], ids=["another", "unknown"])
def test_a_mixture_of_detectors_is_refused_with_both(raw: RawFolder, other: DetectorRecord | None) -> None:
    parts = [write_part(raw.path / "a.npz", ONE, (1, 3)), write_part(raw.path / "b.npz", other, (2, 4))]
    name = r"vg other \(weights aaaaaaaa, selection max-nms\)" if other else "one not named"
    expected = rf"do not mix: .*a\.npz by vg one \(.*, selection caffe\), .*b\.npz by {name}; write a set of each"
    with pytest.raises(InputError, match=expected):
        build(raw, regions=tuple(map(str, parts)))
    assert not snapshot(raw.path / "shards")


def test_a_tsv_names_no_detector(raw: RawFolder) -> None:
    part = write_part(raw.path / "a.npz", ONE, (11, 12))
    with pytest.raises(InputError, match=r"regions\.tsv by one not named, .*a\.npz by vg one"):
        common_detector(list_region_files((*raw.recipe.regions, str(part))))


def test_a_damaged_archive_is_left_to_the_policy_for_damaged_rows(raw: RawFolder) -> None:
    (raw.path / "b.npz").write_bytes(b"cut off")
    parts = (str(write_part(raw.path / "a.npz", ONE)), str(raw.path / "b.npz"))
    shards = build(raw, regions=parts, on_error="skip")
    assert shards.index.detector == ONE
    assert [row.source for row in shards.index.skipped] == ["b.npz"]


def test_the_labels_beside_the_parts_are_taken_and_named_in_the_log(
    raw: RawFolder, caplog: pytest.LogCaptureFixture
) -> None:
    part = write_part(raw.path / "regions" / "000000.npz", ONE)
    (part.parent / "objects_vocab.txt").write_text(OBJECTS)
    (part.parent / "attributes_vocab.txt").write_text(ATTRIBUTES)
    with caplog.at_level(logging.INFO, "msp_ds"):
        shards = build(raw, regions=(str(part.parent),), objects_vocab="", attributes_vocab="")
    assert (shards.path / "objects_vocab.txt").read_text() == OBJECTS
    assert (shards.path / "attributes_vocab.txt").read_text() == ATTRIBUTES
    assert f"labels are those of {part.parent}/objects_vocab.txt" in caplog.text
    (part.parent / "objects_vocab.txt").write_text("cat\nball\nhat")
    shards = build(raw, regions=(str(part.parent),), attributes_vocab="")
    assert (shards.path / "objects_vocab.txt").read_text() == OBJECTS  # the recipe's


def test_a_vocabulary_of_other_labels_than_the_record_s_is_refused(raw: RawFolder) -> None:
    known = dataclasses.replace(ONE, objects_sha256=labels_sha256(tuple(OBJECTS.splitlines())))
    part = write_part(raw.path / "regions" / "000000.npz", known)
    (raw.path / "other.txt").write_text("\n".join(reversed(OBJECTS.splitlines())))
    (raw.path / "spaced.txt").write_bytes(OBJECTS.replace(",", " , ").replace("\n", "\r\n").encode())
    with pytest.raises(
        InputError, match=r"other\.txt has other labels than .* vg one .*that .* wrote: --objects-vocab"
    ):
        build(raw, regions=(str(part),), objects_vocab=f"{raw.path}/other.txt")
    assert build(raw, regions=(str(part),), objects_vocab=f"{raw.path}/spaced.txt").index.detector == known


def test_labels_beside_files_of_an_unknown_detector_are_not_taken(raw: RawFolder) -> None:
    with pytest.raises(InputError, match="names no objects_vocab; give them with --objects-vocab FILE"):
        build(raw, objects_vocab="")
