"""Sets verified: each kind of damage is named with its place, and all of it at once."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from raw_files import RawFolder, vocabulary

from msp_ds.data.format.set_layout import unpack_record
from msp_ds.data.format.shards import ShardSet, open_set, read_record
from msp_ds.data.format.text import WordPieces
from msp_ds.errors import ShardError
from msp_ds.preparation.verifying.verification import find_sets, verify_set, verify_sets
from msp_ds.preparation.writing.shard_building import NoProgress, build_shards
from msp_ds.preparation.writing.shard_writer import SetPlan, write_set

TAR = "000000.tar"


@pytest.fixture
def folder(raw: RawFolder) -> Path:
    """A train set of sentences in two tars, of four images and two."""
    build_shards(raw.recipe, stage="sentence", out=raw.path / "whole")
    whole = open_set(raw.path / "whole" / "sentence" / "train")
    plan = SetPlan(
        stage="sentence",
        split="train",
        pieces=WordPieces(vocabulary()),
        objects_data=whole.objects_path.read_bytes(),
        attributes_data=whole.attributes_path.read_bytes(),
        max_tokens=20,
        images_per_shard=4,
    )
    target = raw.path / "shards" / "sentence" / "train"
    write_set(target, plan=plan, examples=[read_record(whole, row) for row in range(6)], counts={})
    return target


def faults(folder: Path, *, quick: bool = False) -> list[str]:
    """What is wrong, verified from the set's folder on."""
    found = verify_set(folder, quick=quick, jobs=2).faults
    assert not any("\n" in fault for fault in found)
    return [fault.replace(f"{folder}/", "") for fault in found]


def flip(folder: Path, place: int, name: str = TAR) -> None:
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 4
    (folder / name).write_bytes(data)


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / "index.json").read_text())
    change(value)
    (folder / "index.json").write_text(json.dumps(value))


def where(shards: ShardSet, row: int) -> str:
    """How messages name an image."""
    name = shards.shard_paths[shards.shard_of[row]].name
    return f"{name}, coco-{row + 1} at byte {shards.offsets[row]}"


def place_of(shards: ShardSet, row: int) -> slice:
    return slice(int(shards.offsets[row]), int(shards.offsets[row] + shards.lengths[row]))


def vouch(folder: Path, name: str, data: bytes) -> None:
    """Write a file and let the index say that this is how it was written."""
    (folder / name).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def change(index: dict[str, Any]) -> None:
        if name in index["files"]:
            index["files"][name] = entry
        for shard in index["shards"]:
            shard.update(entry if shard["name"] == name else {})

    edit_index(folder, change)


def replace_payload(folder: Path, row: int, **changes: Any) -> None:
    """Another record of the same length in the first tar, with its checksums renewed: only the contents are wrong."""
    shards = open_set(folder)
    place = place_of(shards, row)
    data = (folder / TAR).read_bytes()
    payload = msgpack.packb({**msgpack.unpackb(data[place]), **changes})
    assert len(payload) == place.stop - place.start
    vouch(folder, TAR, data[: place.start] + payload + data[place.stop :])
    edit_index(folder, lambda index: index["shards"][0]["crc32"].__setitem__(row, zlib.crc32(payload)))


def test_a_set_as_written_has_no_faults_and_every_byte_was_read(folder: Path) -> None:
    class Sum(NoProgress):
        total = 0

        def advance(self, amount: int) -> None:
            self.total += amount

    heard = Sum()
    verdict = verify_set(folder, progress=heard)
    size = sum((folder / name).stat().st_size for name in (TAR, "000001.tar"))
    assert (verdict.faults, verdict.num_images, verdict.num_tars) == ((), 6, 2)
    assert heard.total == verdict.num_bytes == size


def test_a_flipped_bit_is_named_by_the_part_that_it_is_in(folder: Path) -> None:
    shards = open_set(folder)
    header = int(shards.offsets[2]) - 512
    padding = int(shards.offsets[1] + shards.lengths[1])
    ending = (folder / TAR).stat().st_size - 700
    for place, expected in [
        (int(shards.offsets[2]) + 90, f"{where(shards, 2)}: the bytes do not match their checksum"),
        (header + 3, f"{where(shards, 2)}: its tar header at byte {header} is damaged (bad checksum)"),
        (padding, f"{where(shards, 2)}: bytes other than zero before it, from byte {padding}"),
        (ending, f"{TAR}: bytes other than zero after the last image, from byte {ending}"),
    ]:
        flip(folder, place)
        assert faults(folder) == [expected]
        assert faults(folder, quick=True) == []
        flip(folder, place)
    assert faults(folder) == []


def test_every_bit_of_a_tar_counts(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for place in generator.choice((folder / TAR).stat().st_size, 150, replace=False).tolist():
        flip(folder, place)
        assert len(faults(folder)) == 1, place
        flip(folder, place)


def test_all_faults_are_named_at_once(folder: Path) -> None:
    shards = open_set(folder)
    for row in (0, 3):
        flip(folder, int(shards.offsets[row]) + 50)
    flip(folder, int(shards.offsets[5]) + 50, "000001.tar")
    flip(folder, 5, "attributes_vocab.txt")
    assert faults(folder) == [
        "attributes_vocab.txt differs from what was written",
        *(f"{where(shards, row)}: the bytes do not match their checksum" for row in (0, 3, 5)),
    ]


def test_a_tar_that_is_cut_names_the_first_image_that_is_gone_and_how_many_follow(folder: Path) -> None:
    shards = open_set(folder)
    data = (folder / TAR).read_bytes()
    for length, number, others in [
        (int(shards.offsets[1]) + 10, 1, "and the 2 images after it are"),
        (int(shards.offsets[1]) - 100, 1, "and the 2 images after it are"),
        (int(shards.offsets[3]) + 10, 3, "is"),
    ]:
        (folder / TAR).write_bytes(data[:length])
        assert faults(folder) == [
            f"{TAR} has {length} bytes instead of {len(data)}",
            f"{where(shards, number)}: the file ends at byte {length}; this image {others} cut off",
        ]
    end = -(-int(shards.offsets[3] + shards.lengths[3]) // 512) * 512
    (folder / TAR).write_bytes(data[: end + 512])
    assert faults(folder)[1:] == [f"{TAR} ends at byte {end + 512} without the two blocks of zeros that end a tar"]
    (folder / TAR).write_bytes(data[: end + 1024])
    assert faults(folder)[1:] == [f"{TAR} differs from the sha256 in the index, though every image in it is valid"]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(10240)])
def test_another_file_in_the_place_of_a_tar_is_named(folder: Path, content: bytes) -> None:
    (folder / TAR).write_bytes(content)
    found = faults(folder)
    assert all(fault.startswith(TAR) for fault in found)
    assert len(found) >= 2


def test_two_records_in_each_others_place_are_both_named(folder: Path) -> None:
    shards = open_set(folder)
    data = (folder / TAR).read_bytes()
    one, other = place_of(shards, 1), place_of(shards, 2)
    assert one.stop - one.start == other.stop - other.start
    swapped = bytearray(data)
    swapped[one], swapped[other] = data[other], data[one]
    (folder / TAR).write_bytes(swapped)
    assert faults(folder) == [f"{where(shards, row)}: the bytes do not match their checksum" for row in (1, 2)]
    vouch(folder, TAR, bytes(swapped))
    edit_index(folder, lambda index: index["shards"][0].update(crc32=np.array(shards.crc32[[0, 2, 1, 3]]).tolist()))
    found = faults(folder)
    assert f"{where(shards, 1)}: holds image coco-3" in found
    assert f"{where(shards, 2)}: holds image coco-2" in found


def test_two_whole_members_swapped_are_found_by_their_headers(folder: Path) -> None:
    shards = open_set(folder)
    data = (folder / TAR).read_bytes()
    cut = [0, *(int(offset) - 512 for offset in shards.offsets[1:4]), len(data)]
    parts = [data[start:end] for start, end in itertools.pairwise(cut)]
    (folder / TAR).write_bytes(parts[0] + parts[2] + parts[1] + parts[3])
    found = faults(folder)
    assert f"{where(shards, 1)}: the bytes do not match their checksum" in found
    assert any(fault.startswith(f"{where(shards, 1)}: its tar header is that of 'coco-3.mp'") for fault in found)


HAND_EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "sha256": (
        lambda index: index["shards"][0].update(sha256="0" * 64),
        f"{TAR} differs from the sha256 in the index, though every image in it is valid",
    ),
    "crc32": (
        lambda index: index["shards"][0]["crc32"].__setitem__(1, 7),
        "000000.tar, coco-2 at byte {offset}: the bytes do not match their checksum",
    ),
    "region count": (
        lambda index: index["shards"][0]["region_counts"].__setitem__(1, 2),
        "000000.tar, coco-2 at byte {offset}: has 3 regions, in the index 2",
    ),
    "most regions": (lambda index: index.update(num_regions=9), "index.json lists no image of 9 regions"),
    "kept texts": (
        lambda index: index["texts"].update(kept=9),
        "index.json says that 9 texts were kept, but counts 12 pairs",
    ),
    "labels": (lambda index: index.update(num_objects=2), "index.json says num_objects 2, the file beside it has 3"),
    "pieces": (lambda index: index.update(vocab_size=900), "index.json says vocab_size 900, the file beside it has"),
    "pairs": (lambda index: index.update(num_pairs=11), "says that 12 texts were kept, but counts 11 pairs"),
    "column": (lambda index: index["shards"][1]["crc32"].pop(), "lists of different or no length for 000001.tar"),
    "overflow": (lambda index: index["shards"][0]["lengths"].__setitem__(0, 10**30), "a number beyond its range"),
    "offsets": (lambda index: index["shards"][0]["offsets"].__setitem__(0, 9000), "outside it or over each other"),
    "key": (
        lambda index: index["shards"][0]["keys"].__setitem__(1, "coco-77"),
        "000000.tar, coco-77 at byte {offset}: holds image coco-2",
    ),
    "half a character": (
        lambda index: index["shards"][0]["keys"].__setitem__(1, "\ud800"),
        "index.json lists image ids of 000000.tar that no image can have",
    ),
    "long name": (lambda index: index["shards"][0].update(name="x" * 256), "which is not a plain file name"),
}


@pytest.mark.parametrize(("change", "fault"), HAND_EDITS.values(), ids=HAND_EDITS)
def test_an_index_edited_by_hand_is_found_out(
    folder: Path, change: Callable[[dict[str, Any]], Any], fault: str
) -> None:
    offset = open_set(folder).offsets[1]
    edit_index(folder, change)
    assert any(fault.format(offset=offset) in found for found in faults(folder)), faults(folder)


def test_contents_that_no_checksum_speaks_against_are_found(folder: Path) -> None:
    shards = open_set(folder)
    record, texts = read_record(shards, 1)
    half = record.features.copy()
    half[1, 2] = np.nan
    boxes = record.boxes.copy()
    boxes[0, 2] = 65
    cases: list[tuple[dict[str, Any], str]] = [
        ({"features": half.tobytes()}, "a feature is not finite"),
        ({"boxes": boxes.tobytes()}, "has a box that is not finite or not within its 64 x 48 pixels"),
        ({"object_ids": np.array([0, 3, 1], "<i2").tobytes()}, "has an object id outside the vocabulary of 3 labels"),
        ({"attribute_scores": np.array([0, 2, 0], "<f4").tobytes()}, "has a confidence that is not between 0 and 1"),
        ({"num_regions": 4}, "boxes holds 48 bytes instead of 64 bytes"),
        ({"texts": [texts[0], texts[1].replace("horse", "hosre")]}, "text 1 is 'the hosre on a ball'"),
        ({"texts": [texts[0], b" " * (len(texts[1]) - 1)]}, "holds a text that is not a string"),
        ({"image_id": "coco-9"}, "holds image coco-9"),
    ]
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for changes, fault in cases:
        replace_payload(folder, 1, **changes)
        found = faults(folder)
        assert found[0].startswith(f"{where(shards, 1)}: {fault}"), found
        for name, data in whole.items():
            (folder / name).write_bytes(data)


def test_a_pair_table_that_does_not_agree_with_the_records_is_found(folder: Path) -> None:
    with np.load(folder / "pairs.npz") as arrays:
        table = {name: arrays[name] for name in arrays.files}
    shards = open_set(folder)
    for name, place, value, fault in [
        ("token_ids", 1, 9, "text 0, 'A red dog.', has other word pieces in the pair table"),
        ("word_positions", 1, 9, "text 0, 'A red dog.', has other word pieces in the pair table"),
        ("keys", 0, 9, "text 0 is 'A red dog.', which differs from the text of the pair table"),
        ("image_rows", 0, 1, "has 2 texts, the pair table 1"),
    ]:
        changed = {key: array.copy() for key, array in table.items()}
        changed[name][place] = value
        buffer = io.BytesIO()
        np.savez(buffer, **changed)
        vouch(folder, "pairs.npz", buffer.getvalue())
        assert faults(folder)[0] == f"{where(shards, 0)}: {fault}"


def test_damaged_tables_do_not_keep_the_tars_from_being_read(folder: Path) -> None:
    shards = open_set(folder)
    (folder / "pairs.npz").write_bytes(b"PK")
    (folder / "000001.tar").unlink()
    flip(folder, int(shards.offsets[2]) + 50)
    found = faults(folder)
    assert found[0] == "000001.tar is missing"
    assert found[1].startswith("pairs.npz has 2 bytes instead of")
    assert found[2:] == [f"{where(shards, 2)}: the bytes do not match their checksum"]


def test_the_number_of_jobs_does_not_change_what_is_found(folder: Path) -> None:
    shards = open_set(folder)
    flip(folder, int(shards.offsets[0]) + 50)
    flip(folder, int(shards.offsets[4]) + 50, "000001.tar")
    assert verify_set(folder, jobs=1).faults == verify_set(folder, jobs=4).faults
    assert len(verify_set(folder, jobs=1).faults) == 2


def test_a_folder_stands_for_the_sets_below_it(folder: Path) -> None:
    other = folder.parent / "val"
    shutil.copytree(folder, other)
    shutil.copytree(folder, folder.parent / ".val.tmp-1")
    assert find_sets([folder.parents[1]]) == [folder, other]
    assert find_sets([other, folder.parent]) == [other, folder]
    assert find_sets([folder / "nowhere"]) == [folder / "nowhere"]


def test_links_to_sets_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "links" / "sentence"
    root.mkdir(parents=True)
    (root / "train").symlink_to(folder)
    (root / "again").symlink_to(root.parent)
    assert find_sets([root.parent]) == [root / "train"]
    assert not verify_set(root / "train").faults


def test_a_folder_of_sets_names_them_and_a_foreign_folder_is_called_foreign(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"but holds some; name one of them: .*/sentence/train$"):
        open_set(folder.parents[1])
    (tmp_path / "foreign" / "page").mkdir(parents=True)
    (tmp_path / "foreign" / "page" / "index.json").write_text("{}")
    for name in ("foreign", "nowhere"):
        with pytest.raises(ShardError) as caught:
            open_set(tmp_path / name)
        assert "with: msp-ds shard --stage STAGE" in str(caught.value)
        assert ("is not a shard set of msp-ds" in str(caught.value)) == (name == "foreign")


def test_a_set_without_an_index_does_not_keep_the_others_from_being_verified(folder: Path) -> None:
    (folder.parent / "val").mkdir()
    verified: list[Path] = []
    with pytest.raises(ShardError, match=r"val has no index.json; write it again with: msp-ds shard --stage sentence"):
        verify_sets([folder.parent / "val", folder], tell=lambda verdict: verified.append(verdict.path))
    assert verified == [folder]


def test_the_members_can_still_be_read_as_a_plain_tar(folder: Path) -> None:
    with tarfile.open(folder / TAR) as tar:
        member = tar.extractfile("coco-3.mp")
        assert member is not None
        assert unpack_record(member.read(), where="here")[0].image_id == "coco-3"
