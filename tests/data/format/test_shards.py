"""Sets on disk: opened, read, verified; and every way in which they can be damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from raw_files import RawFolder, vocabulary

from msp_ds.data.format.requirements import require_hard_negatives, require_same_words
from msp_ds.data.format.set_layout import fix_command, unpack_record
from msp_ds.data.format.shards import open_set, read_record
from msp_ds.data.format.text import WordPieces
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.preparation.writing.shard_writer import SetPlan, SetReport, write_set


@pytest.fixture
def folder(raw: RawFolder) -> Path:
    """A train set of sentences."""
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    return raw.path / "shards" / "sentence" / "train"


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / "index.json").read_text())
    change(value)
    (folder / "index.json").write_text(json.dumps(value))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and its entry in the index."""
    (folder / name).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_index(folder, lambda index: index["files"].update({name: entry}))


def replace_pairs(folder: Path, **changes: Any) -> None:
    with np.load(folder / "pairs.npz") as arrays:
        new = {**{name: arrays[name] for name in arrays.files}, **changes}
    buffer = io.BytesIO()
    np.savez(buffer, **new)
    replace_file(folder, "pairs.npz", buffer.getvalue())


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_set_is_self_contained(folder: Path) -> None:
    moved = folder.rename(folder.parents[2] / "moved")
    shards = open_set(moved)
    assert shards.tables().object_pieces.shape == (3, 2)
    assert [read_record(shards, row)[0].image_id for row in range(6)] == list(shards.keys)


def test_the_index_locates_every_payload(folder: Path) -> None:
    shards = open_set(folder)
    with tarfile.open(folder / "000000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [f"{key}.mp" for key in shards.keys]
    assert [member.offset_data for member in members] == shards.offsets.tolist()
    assert [member.size for member in members] == shards.lengths.tolist()
    assert {member.mtime for member in members} == {0}
    assert shards.region_counts.tolist() == [3] * 6


def test_features_end_the_payload(folder: Path) -> None:
    shards = open_set(folder)
    data = (folder / "000000.tar").read_bytes()
    end = int(shards.offsets[2] + shards.lengths[2])
    raw = np.frombuffer(data[end - 3 * 4 * 2 : end], "<f2").reshape(3, 4)
    np.testing.assert_array_equal(raw, read_record(shards, 2)[0].features)


def test_shards_close_at_the_image_limit(folder: Path, tmp_path: Path) -> None:
    shards = open_set(folder)
    examples = [read_record(shards, row) for row in range(6)]
    plan = SetPlan(
        stage="sentence",
        split="train",
        pieces=WordPieces(vocabulary()),
        objects_data=shards.objects_path.read_bytes(),
        attributes_data=shards.attributes_path.read_bytes(),
        max_tokens=20,
        images_per_shard=4,
    )
    write_set(tmp_path / "many", plan=plan, examples=examples, counts={})
    many = open_set(tmp_path / "many")
    assert [len(shard.keys) for shard in many.index.shards] == [4, 2]
    assert many.shard_of.tolist() == [0, 0, 0, 0, 1, 1]
    assert [read_record(many, row)[1] for row in range(6)] == [texts for _, texts in examples]
    small = dataclasses.replace(plan, bytes_per_shard=1)
    assert write_set(tmp_path / "small", plan=small, examples=examples, counts={}).num_shards == 6


def test_a_writer_refuses_an_image_twice_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    shards = open_set(folder)
    example = read_record(shards, 0)
    plan = SetPlan(
        stage="sentence",
        split="train",
        pieces=WordPieces(vocabulary()),
        objects_data=b"dog",
        attributes_data=b"red",
        max_tokens=20,
    )
    for examples, fault in [
        ([example, example], "image coco-1 comes twice"),
        ([(example[0], [])], "image coco-1 has no text"),
        ([], "no image with a text is left"),
    ]:
        with pytest.raises(InputError, match=fault):
            write_set(tmp_path / "new" / "train", plan=plan, examples=examples, counts={})
        assert list((tmp_path / "new").iterdir()) == []


def test_a_report_names_what_was_left_out_in_one_line() -> None:
    report = SetReport(
        path=Path("shards/token/train"),
        num_images=3,
        num_pairs=4,
        num_shards=1,
        num_bytes=2_600_000,
        texts={"kept": 4, "truncated": 2, "captions_empty": 0, "images_without_text": 1},
        file_names=frozenset({"index.json"}),
    )
    description = "shards/token/train: 3 images, 4 texts, 1 tars, 3 MB; truncated 2, images without text 1"
    assert report.describe() == description


def test_a_missing_set_is_reported_with_the_command_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "token" / "train"
    with pytest.raises(ShardError) as caught:
        open_set(path)
    assert str(caught.value) == f"no shards for stage token in {path}; write them with: msp-ds shard --stage token"


def test_a_missing_held_out_set_is_reported_with_the_training_set(tmp_path: Path) -> None:
    (tmp_path / "token" / "train").mkdir(parents=True)
    fix = f"msp-ds shard --stage token --holdout N; or take the training set, --shards {tmp_path / 'token' / 'train'}"
    with pytest.raises(ShardError, match=re.escape(f"in {tmp_path / 'token' / 'val'}; write them with: {fix}")):
        open_set(tmp_path / "token" / "val")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no index": (lambda folder: (folder / "index.json").unlink(), "train has no index.json"),
    "index cut": (lambda folder: (folder / "index.json").write_text('{"form'), "index.json is not valid JSON"),
    "index of numbers": (lambda folder: (folder / "index.json").write_text("[]"), "is not of format 'msp-ds shards'"),
    "newer version": (
        lambda folder: edit_index(folder, lambda index: index.update(version=3)),
        "is not of format 'msp-ds shards' version 2",
    ),
    "field gone": (
        lambda folder: edit_index(folder, lambda index: index.pop("num_pairs")),
        "index.json: missing key num_pairs",
    ),
    "field of another type": (
        lambda folder: edit_index(folder, lambda index: index.update(num_images="six")),
        "index.json.num_images: expected int",
    ),
    "tar gone": (lambda folder: (folder / "000000.tar").unlink(), "000000.tar is missing"),
    "tar cut": (
        lambda folder: (folder / "000000.tar").write_bytes((folder / "000000.tar").read_bytes()[:-512]),
        "000000.tar has 9728 bytes instead of 10240",
    ),
    "pairs flipped": (lambda folder: flip(folder / "pairs.npz", 300), "pairs.npz differs from what was written"),
    "vocabulary longer": (
        lambda folder: (folder / "vocab.txt").write_text("more" * 100),
        "vocab.txt has 400 bytes instead of",
    ),
    "vocabulary swapped": (
        lambda folder: replace_file(folder, "vocab.txt", vocabulary().data + b"extra\n"),
        "index.json names another vocabulary",
    ),
    "table unlisted": (
        lambda folder: edit_index(folder, lambda index: index["files"].pop("feature_mean.npy")),
        "index.json does not list feature_mean.npy",
    ),
    "path as a name": (
        lambda folder: edit_index(folder, lambda index: index["shards"][0].update(name="../000000.tar")),
        "'../000000.tar', which is not a plain file name",
    ),
    "image count": (
        lambda folder: edit_index(folder, lambda index: index.update(num_images=7)),
        "does not list 7 different images",
    ),
    "key twice": (
        lambda folder: edit_index(folder, lambda index: index["shards"][0]["keys"].__setitem__(0, "coco-2")),
        "does not list 6 different images",
    ),
    "offsets crossed": (
        lambda folder: edit_index(folder, lambda index: index["shards"][0]["offsets"].__setitem__(0, 2000)),
        "places images of 000000.tar outside it or over each other",
    ),
    "length beyond": (
        lambda folder: edit_index(folder, lambda index: index["shards"][0]["lengths"].__setitem__(5, 99999)),
        "places images of 000000.tar outside it",
    ),
    "column short": (
        lambda folder: edit_index(folder, lambda index: index["shards"][0]["crc32"].pop()),
        "lists of different or no length for 000000.tar",
    ),
    "pair count": (
        lambda folder: edit_index(folder, lambda index: index.update(num_pairs=11)),
        "says that 12 texts were kept, but counts 11 pairs",
    ),
    "pair of no image": (
        lambda folder: replace_pairs(folder, image_rows=np.full(12, 6, np.int32)),
        "names an image or a word piece that does not exist",
    ),
    "pairs of another type": (
        lambda folder: replace_pairs(folder, keys=np.zeros(12, np.int32)),
        "pairs.npz holds {'keys': 'int32'",
    ),
    "offsets of pairs": (
        lambda folder: replace_pairs(folder, offsets=np.arange(13, dtype=np.int64) * 3),
        "pairs.npz has offsets that do not fit its pieces",
    ),
    "pairs that are none": (lambda folder: replace_file(folder, "pairs.npz", b"PK"), "sentence"),
    "mean of another width": (
        lambda folder: edit_index(folder, lambda index: index.update(feature_width=5)),
        "feature_mean.npy does not hold 5 float32 numbers",
    ),
    "hard negatives of no image": (
        lambda folder: replace_file(folder, "hard_negatives.npz", _npz(rows=np.full((6, 3), 6, np.int32))),
        "hard_negatives.npz does not hold rows of the 6 images",
    ),
}


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(("harm", "fault"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_set_is_refused_at_once_with_the_fixing_command(
    folder: Path, harm: Callable[[Path], Any], fault: str
) -> None:
    harm(folder)
    with pytest.raises(ShardError) as caught:
        open_set(folder)
    message = str(caught.value)
    assert fault in message
    assert message.endswith(f"; {fix_command('sentence')}")
    assert "\n" not in message


def test_a_flipped_bit_in_a_payload_is_found_at_the_record(folder: Path) -> None:
    shards = open_set(folder)
    flip(folder / "000000.tar", int(shards.offsets[3]) + 40)
    damaged = open_set(folder)
    with pytest.raises(ShardError) as caught:
        read_record(damaged, 3)
    place = f"{folder / '000000.tar'}, coco-4 at byte {shards.offsets[3]}"
    assert str(caught.value).startswith(f"{place}: the bytes do not match their checksum; write it again with: msp-ds")
    read_record(damaged, 2)


def change_payload(payload: bytes, **changes: Any) -> bytes:
    value = {**msgpack.unpackb(payload), **changes}
    return msgpack.packb({name: part for name, part in value.items() if part is not None})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"boxes": None}, "does not hold the fields"),
        ({"extra": 1}, "does not hold the fields"),
        ({"height": "tall"}, "height should be int, but is 'tall'"),
        ({"num_regions": 2}, "boxes holds 48 bytes instead of 32"),
        ({"feature_width": 5}, "features holds 24 bytes instead of 30"),
        ({"object_ids": "words"}, "object_ids holds str instead of 6 bytes"),
        ({"features": np.full((3, 4), np.inf, "<f2").tobytes()}, "a feature is not finite"),
    ],
)
def test_a_record_of_another_schema_is_refused_with_its_place(
    folder: Path, changes: dict[str, Any], fault: str
) -> None:
    shards = open_set(folder)
    start = int(shards.offsets[0])
    payload = (folder / "000000.tar").read_bytes()[start : start + int(shards.lengths[0])]
    with pytest.raises(ShardError, match=rf"^here: {fault}"):
        unpack_record(change_payload(payload, **changes), where="here")
    with pytest.raises(ShardError, match=r"^here: is not msgpack"):
        unpack_record(payload[:-1], where="here")


def test_missing_hard_negatives_are_refused_with_the_command_that_writes_them(raw: RawFolder, folder: Path) -> None:
    assert require_hard_negatives(open_set(folder), task="itm_hs").shape == (6, 3)
    build_shards(dataclasses.replace(raw.recipe, hard_negatives=None), stage="sentence", out=raw.path / "shards")
    with pytest.raises(ShardError, match=r"has no hard negatives, which task itm_hs needs; .* --attach"):
        require_hard_negatives(open_set(folder), task="itm_hs")


def test_sets_of_different_words_are_refused(raw: RawFolder, folder: Path) -> None:
    build_shards(raw.recipe, stage="token", out=raw.path / "shards")
    require_same_words(open_set(folder), open_set(raw.path / "shards" / "token" / "train"))
    build_shards(dataclasses.replace(raw.recipe, vocab="trained"), stage="token", out=raw.path / "shards")
    with pytest.raises(ShardError, match=r"different vocab.txt; .* --stage token"):
        require_same_words(open_set(folder), open_set(raw.path / "shards" / "token" / "train"))
