"""Every known fault of a shard set: the result of this package next to that of webdataset 1.0.

webdataset's results are assertions too, since they are the reason for reading by an index: a scanner of tars takes a
damaged header or a clean cut for the end of the archive without an error.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
import webdataset
from outcomes import ALL, SILENT, everything, ours, theirs
from raw_files import NUM_IMAGES, RawFolder

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.verifying.verification import verify_set
from msp_ds.preparation.writing.shard_building import build_shards

BLOCK = 512


@pytest.fixture
def folder(raw: RawFolder) -> Path:
    """A set of six images in one tar: each has 512 bytes of header and 512 or 1,024 of payload."""
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    return raw.path / "shards" / "sentence" / "train"


Spoiler = Callable[[bytearray, ShardSet], Any]


def spoil(folder: Path, change: Spoiler) -> None:
    """Change the bytes of the tar."""
    shards, path = open_set(folder), folder / "000000.tar"
    data = bytearray(path.read_bytes())
    changed = change(data, shards)
    path.write_bytes(data if changed is None else changed)


def cut(row: int, place: int) -> Spoiler:
    """Cut the tar before byte `place` of an image's payload."""
    return lambda data, shards: data[: int(shards.offsets[row]) + place]


def flip(row: int, place: int) -> Spoiler:
    """Flip a bit of byte `place` of an image's payload; negative places are in its header."""

    def change(data: bytearray, shards: ShardSet) -> None:
        data[int(shards.offsets[row]) + place] ^= 1

    return change


def zero(row: int, place: int, count: int) -> Spoiler:
    """Set `count` bytes from byte `place` of an image's payload to zero."""

    def change(data: bytearray, shards: ShardSet) -> None:
        start = int(shards.offsets[row]) + place
        data[start : start + count] = bytes(count)

    return change


def swap(one: int, other: int) -> Spoiler:
    """Exchange the payloads of two images of one size."""

    def change(data: bytearray, shards: ShardSet) -> None:
        first, second = (int(shards.offsets[row]) for row in (one, other))
        length = int(shards.lengths[one])
        assert length == shards.lengths[other]
        data[first : first + length], data[second : second + length] = (
            data[second : second + length],
            data[first : first + length],
        )

    return change


def all_bytes(value: bytes) -> Spoiler:
    return lambda data, shards: value


def same_size(value: bytes) -> Spoiler:
    return lambda data, shards: (value * (len(data) // len(value) + 1))[: len(data)]


FAULTS: dict[str, tuple[Spoiler, str, str]] = {
    # name: (fault, part of our error or `read`, what webdataset does)
    "cut inside a payload": (cut(3, 40), "000000.tar has", "ReadError"),
    "cut at a member's boundary": (cut(3, -BLOCK), "000000.tar has", SILENT),
    "cut inside a header": (cut(3, -BLOCK + 100), "000000.tar has", SILENT),
    "no end blocks": (lambda data, shards: data[: int(shards.offsets[5]) + BLOCK], "000000.tar has", ALL),
    "a bit in a later header": (flip(3, -BLOCK + 20), "read", SILENT),
    "a bit in the first header": (flip(0, -BLOCK + 20), "read", "ReadError"),
    "an empty file": (all_bytes(b""), "000000.tar has 0 bytes instead of", "ReadError"),
    "garbage": (same_size(b"\xa5\x17"), "coco-1 at byte 512: the bytes do not match their checksum", "ReadError"),
    "a page of HTML": (all_bytes(b"<html>404</html>" * 50), "000000.tar has 800 bytes instead of", "ReadError"),
    "a zeroed block in a payload": (zero(3, 0, 64), "coco-4 at byte", ALL),
    "a zeroed header": (zero(3, -BLOCK, BLOCK), "read", SILENT),
    "a zeroed page": (zero(2, -BLOCK, 4096), "coco-3 at byte", SILENT),
    "a bit in a payload": (flip(3, 70), "coco-4 at byte", ALL),
    "a bit in the features": (flip(3, 300), "coco-4 at byte", ALL),
    "two records swapped": (swap(1, 2), "coco-2 at byte", ALL),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_tar(folder: Path, name: str) -> None:
    change, expected, foreign = FAULTS[name]
    before = everything(open_set(folder))
    spoil(folder, change)
    result = ours(folder)
    assert expected in result
    if result == "read":  # offsets come from the index: what others stumble over is not looked at
        assert torch.equal(everything(open_set(folder)).features, before.features)
    else:
        assert "write it again with: msp-ds shard --stage sentence" in result
    assert any("000000.tar" in fault for fault in verify_set(folder).faults)
    assert theirs(folder / "000000.tar") == foreign


def test_a_missing_tar(folder: Path) -> None:
    (folder / "000000.tar").unlink()
    assert "000000.tar is missing" in ours(folder)
    assert theirs(folder / "000000.tar") == "FileNotFoundError"


def replace_record(folder: Path, row: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replace an image's record, and its length and checksum in the index."""
    shards, path = open_set(folder), folder / "000000.tar"
    data = bytearray(path.read_bytes())
    start, length = int(shards.offsets[row]), int(shards.lengths[row])
    value = msgpack.unpackb(bytes(data[start : start + length]))
    change(value)
    payload = msgpack.packb(value)
    padded = -(-length // BLOCK) * BLOCK
    assert len(payload) <= padded
    data[start : start + padded] = payload.ljust(padded, b"\0")
    size = start - BLOCK + 124
    data[size : size + 12] = f"{len(payload):011o}\0".encode()
    header = data[start - BLOCK : start]
    header[148:156] = b" " * 8
    data[start - BLOCK + 148 : start - BLOCK + 156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(data)

    def list_record(index: dict[str, Any]) -> None:
        index["shards"][0]["lengths"][row] = len(payload)
        index["shards"][0]["crc32"][row] = zlib.crc32(payload)

    edit_index(folder, list_record)


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / "index.json").read_text())
    change(value)
    (folder / "index.json").write_text(json.dumps(value))


def half(value: float) -> bytes:
    return np.full(12, value, "<f2").tobytes()


WRONG_RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a missing field": (lambda record: record.pop("boxes"), "does not hold the fields"),
    "another shape": (lambda record: record.update(features=bytes(20)), "features holds 20 bytes instead of 24"),
    "fewer regions": (lambda record: record.update(num_regions=2), "boxes holds 48 bytes instead of 32 bytes"),
    "not a number": (lambda record: record.update(features=half(np.nan)), "a feature is not finite"),
    "infinity": (lambda record: record.update(features=half(-np.inf)), "a feature is not finite"),
    "another image": (lambda record: record.update(image_id="coco-9"), "holds image coco-9"),
}


@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_a_wrong_record_with_a_matching_checksum(folder: Path, name: str) -> None:
    change, expected = WRONG_RECORDS[name]
    replace_record(folder, 3, change)
    assert f"coco-4 at byte {open_set(folder).offsets[3]}" in ours(folder)
    assert expected in ours(folder)
    assert theirs(folder / "000000.tar") == ALL


def test_negative_features_are_sound(folder: Path) -> None:
    replace_record(folder, 3, lambda record: record.update(features=half(-2.5)))
    assert ours(folder) == "read"


def test_an_image_twice(folder: Path) -> None:
    shards = open_set(folder)
    first_end = int(shards.offsets[1]) - BLOCK
    last_end = -(-int(shards.offsets[-1] + shards.lengths[-1]) // BLOCK) * BLOCK
    edit_index(folder, lambda index: index["shards"][0]["keys"].__setitem__(4, "coco-4"))
    assert "does not list 6 different images" in ours(folder)
    path = folder / "000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:first_end] + data)  # the first member stands twice, one behind the other
    assert theirs(folder / "000000.tar") == "ValueError"
    path.write_bytes(data[:last_end] + data[:first_end] + bytes(2 * BLOCK))  # the same apart from each other
    assert len(list(webdataset.WebDataset(str(path), shardshuffle=False))) == NUM_IMAGES + 1


def shard(index: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = index["shards"][0]
    return found


def plus(name: str, row: int, amount: int) -> Callable[[dict[str, Any]], Any]:
    return lambda index: shard(index)[name].__setitem__(row, shard(index)[name][row] + amount)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an offset": (plus("offsets", 3, 1), "coco-4 at byte"),
    "an offset beyond the tar": (plus("offsets", 5, 10**9), "outside it or over each other"),
    "a length": (plus("lengths", 3, -1), "coco-4 at byte"),
    "a checksum": (plus("crc32", 3, 1), "coco-4 at byte"),
    "a checksum beyond 32 bits": (plus("crc32", 3, 2**40), "index.json holds a number beyond its range"),
    "a negative checksum": (plus("crc32", 3, -(2**40)), "index.json holds a number beyond its range"),
    "a count of regions": (plus("region_counts", 3, -1), "coco-4 at byte"),
    "too many regions": (plus("region_counts", 3, 1), "counts regions of 000000.tar that do not fit"),
    "a negative count of regions": (plus("region_counts", 3, -4), "counts regions of 000000.tar that do not fit"),
    "a key": (lambda index: shard(index)["keys"].__setitem__(3, "coco-77"), "coco-77 at byte"),
    "two keys": (lambda index: shard(index)["keys"].reverse(), "holds image coco-1"),
    "the tar's size": (lambda index: shard(index).update(bytes=5), "instead of 5"),
    "fewer regions in all": (lambda index: index.update(num_regions=2), "do not fit"),
    "more regions in all": (lambda index: index.update(num_regions=10**6), "lists no image of 1000000 regions"),
    "wider features": (lambda index: index.update(feature_width=8), "feature_mean.npy does not hold 8"),
    "a negative width": (lambda index: index.update(feature_width=-4), "feature_mean.npy does not hold -4"),
    "fewer object labels": (lambda index: index.update(num_objects=1), "says num_objects 1, the file beside it has 3"),
    "more word pieces": (lambda index: index.update(vocab_size=10**6), "says vocab_size 1000000"),
    "fewer images": (lambda index: index.update(num_images=5), "does not list 5 different images"),
    "more pairs": (lambda index: index.update(num_pairs=13), "says that 12 texts were kept, but counts 13 pairs"),
    "a tar elsewhere": (lambda index: shard(index).update(name="../000000.tar"), "which is not a plain file name"),
    "text for a number": (lambda index: shard(index)["lengths"].__setitem__(0, "9"), "expected int, got '9'"),
    "another version": (lambda index: index.update(version=9), "is not of format"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_index_edited_by_hand(folder: Path, name: str) -> None:
    change, expected = EDITS[name]
    edit_index(folder, change)
    result = ours(folder)
    assert expected in result
    assert "write it again with: msp-ds shard --stage sentence" in result
    assert theirs(folder / "000000.tar") == ALL


def test_what_a_killed_writer_left_is_not_part_of_the_set(folder: Path) -> None:
    whole = everything(open_set(folder))
    shutil.copytree(folder, folder.with_name(".train.tmp-999999"))
    (folder.with_name(".train.tmp-999999") / "index.json").unlink()
    assert torch.equal(everything(open_set(folder)).features, whole.features)
    shutil.rmtree(folder)
    assert "no shards for stage sentence" in ours(folder)


@pytest.mark.parametrize("path", ["pipe:cat shards", "pipe:rm -r elsewhere/", "ftp://host/shards", "file:shards"])
def test_addresses_that_are_no_folders_are_refused(path: str) -> None:
    with pytest.raises(ShardError, match="none runs programs"):
        open_set(Path(path) / "sentence" / "train")


def test_a_folder_with_a_colon_in_its_name_is_a_folder(folder: Path) -> None:
    renamed = folder.parent.parent.with_name("a:b")
    folder.parent.parent.rename(renamed)
    assert dataclasses.asdict(open_set(renamed / "sentence" / "train").index)["num_images"] == NUM_IMAGES


def test_errors_of_reading_are_errors_of_input() -> None:
    assert issubclass(ShardError, InputError)
