"""The reader returns the bytes of the shards, and an error names the place of any damage."""

from __future__ import annotations

import dataclasses
import zlib
from itertools import pairwise
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from raw_files import NUM_REGIONS, RawFolder, Row, write_tsv

from msp_ds.data.format.set_layout import ARRAYS
from msp_ds.data.format.shards import ShardSet, open_set, read_record
from msp_ds.data.loading.reader import PAD_TO, Reader
from msp_ds.errors import ShardError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.records import IGNORE, Batch


def cropped(number: int, num_regions: int) -> Row:
    """An image with `num_regions` regions."""
    row = Row(number, num_boxes=num_regions)
    for name in ("object_ids", "object_scores", "attribute_ids", "attribute_scores", "boxes", "features"):
        setattr(row, name, getattr(row, name)[:num_regions])
    return row


@pytest.fixture
def shards(raw: RawFolder) -> ShardSet:
    """Sentences of six images, two each; image 2 has one region, image 5 two, the others three."""
    rows = [Row(1), cropped(2, 1), Row(3), Row(4), cropped(5, 2), Row(6)]
    write_tsv(raw.path / "regions.tsv", rows)
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    return open_set(raw.path / "shards" / "sentence" / "train")


def read(reader: Reader, pairs: torch.Tensor, *, num_random_regions: int = 2, num_tokens: int | None = None) -> Batch:
    """The batch of some pairs with their own images."""
    chances = torch.rand(len(pairs), 2 * num_random_regions, generator=torch.Generator().manual_seed(0))
    return reader.read(
        pairs,
        images=reader.images[pairs],
        matched=torch.ones(len(pairs), dtype=torch.bool),
        random_regions=chances,
        num_tokens=num_tokens,
    )


def everything(reader: Reader) -> Batch:
    return read(reader, torch.arange(len(reader.keys)))


def test_a_batch_holds_the_regions_of_each_pairs_image(shards: ShardSet) -> None:
    reader = Reader(shards)
    batch = everything(reader)
    for pair, row in enumerate(reader.images.tolist()):
        record, _ = read_record(shards, row)
        count = len(record.boxes)
        assert torch.equal(batch.features[pair, :count], torch.from_numpy(record.features.copy()))
        for name in ("object_ids", "object_scores", "attribute_ids", "attribute_scores"):
            assert getattr(batch, name)[pair, :count].tolist() == getattr(record, name).tolist(), name


def test_features_are_halves_and_labels_are_long(shards: ShardSet) -> None:
    batch = everything(Reader(shards))
    types = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if item.name != "corruption"}
    assert {name: value.dtype for name, value in types.items()} == {
        **dict.fromkeys(
            ("keys", "token_ids", "word_positions", "object_ids", "attribute_ids", "answer_ids"), torch.int64
        ),
        **dict.fromkeys(("token_mask", "region_mask"), torch.bool),
        **dict.fromkeys(("features", "random_features"), torch.float16),
        **dict.fromkeys(("boxes", "object_scores", "attribute_scores", "answer_scores"), torch.float32),
    }


def test_boxes_are_fractions_of_width_and_height(shards: ShardSet) -> None:
    # 64 x 48 pixels; the boxes are 0 0 32 24, 8 8 64 48 and 1.5 2.5 3.5 4.5
    boxes = everything(Reader(shards)).boxes[0]
    assert boxes[0].tolist() == [0, 0, 0.5, 0.5]
    assert boxes[1].tolist() == pytest.approx([8 / 64, 8 / 48, 1, 1])
    assert boxes[2].tolist() == pytest.approx([1.5 / 64, 2.5 / 48, 3.5 / 64, 4.5 / 48])


def test_slots_beyond_the_last_region_are_out_of_the_mask_and_have_no_label(shards: ShardSet) -> None:
    reader = Reader(shards)
    batch = everything(reader)
    counts = {"coco-2": 1, "coco-5": 2}
    for pair, row in enumerate(reader.images.tolist()):
        count = counts.get(shards.keys[row], NUM_REGIONS)
        assert batch.region_mask[pair].tolist() == [place < count for place in range(NUM_REGIONS)]
        for name in ("object_ids", "attribute_ids"):
            assert (getattr(batch, name)[pair, count:] == IGNORE).all()
        for name in ("features", "boxes", "object_scores", "attribute_scores"):
            assert not getattr(batch, name)[pair, count:].any()


def test_texts_are_padded_to_the_longest_of_the_batch_rounded_up(shards: ShardSet) -> None:
    # "a red dog ." takes 6 pieces with [CLS] and [SEP], "the horse on a ball" 7: both round up to 8.
    reader = Reader(shards)
    batch = everything(reader)
    assert batch.token_ids.shape[1] == 8 == 2 * PAD_TO
    lengths = [len(text) for text in texts(shards)]
    assert sorted(set(lengths)) == [6, 7]
    assert batch.token_mask.sum(1).tolist() == lengths
    assert not batch.token_ids[~batch.token_mask].any()
    assert not batch.word_positions[~batch.token_mask].any()


def texts(shards: ShardSet) -> list[list[int]]:
    """The piece ids of each pair, directly from the table."""
    ends = shards.pairs.offsets
    return [shards.pairs.token_ids[a:b].tolist() for a, b in pairwise(ends)]


def test_pieces_are_those_of_the_table_in_any_order_of_pairs(shards: ShardSet) -> None:
    pairs = torch.tensor([7, 0, 7, 3])
    batch = read(Reader(shards), pairs)
    expected = texts(shards)
    for place, pair in enumerate(pairs.tolist()):
        assert batch.token_ids[place, batch.token_mask[place]].tolist() == expected[pair]
    assert batch.keys.tolist() == shards.pairs.keys[pairs.numpy()].tolist()


def test_a_batch_can_be_padded_further_so_that_all_ranks_agree(shards: ShardSet) -> None:
    reader, pairs = Reader(shards), torch.tensor([0, 1])
    short, long = read(reader, pairs), read(reader, pairs, num_tokens=12)
    assert long.token_ids.shape == (2, 12)
    assert torch.equal(long.token_ids[:, :8], short.token_ids)
    assert not long.token_mask[:, 8:].any()


def test_an_image_can_be_another_than_the_texts_own(shards: ShardSet) -> None:
    reader = Reader(shards)
    matched = torch.tensor([True, False])
    batch = reader.read(
        torch.tensor([0, 1]), images=torch.tensor([0, 5]), matched=matched, random_regions=torch.zeros(2, 0)
    )
    assert torch.equal(batch.corruption.matched, matched)
    assert torch.equal(batch.features[1], torch.from_numpy(read_record(shards, 5)[0].features.copy()))
    assert batch.token_ids[1].tolist()[:7] == texts(shards)[1]


def test_random_regions_are_regions_of_images_of_the_set_and_all_can_come(shards: ShardSet) -> None:
    reader = Reader(shards)
    features = np.concatenate([read_record(shards, row)[0].features for row in range(6)])
    assert len(features) == 6 * NUM_REGIONS - 3
    regions = {tuple(region.tolist()) for region in features}
    seen = set()
    for _ in range(20):
        batch = reader.read(
            torch.arange(12),
            images=reader.images,
            matched=torch.ones(12, dtype=torch.bool),
            random_regions=torch.rand(12, 8, generator=torch.Generator().manual_seed(len(seen))),
        )
        assert batch.random_features.shape == (12, 4, 4)
        seen |= {tuple(region.tolist()) for region in batch.random_features.flatten(0, 1)}
    assert seen == regions


@pytest.mark.parametrize("chance", [0.0, 1 - 2.0**-24])
def test_a_random_region_of_the_extreme_numbers_is_the_first_or_last_region(shards: ShardSet, chance: float) -> None:
    batch = Reader(shards).read(
        torch.tensor([0]),
        images=torch.tensor([0]),
        matched=torch.tensor([True]),
        random_regions=torch.tensor([[chance] * 2]),
    )
    place = 0 if chance == 0 else -1
    wanted = read_record(shards, place % 6)[0].features[place]
    assert batch.random_features[0, 0].tolist() == wanted.tolist()


def test_a_clean_batch_has_no_corruption(shards: ShardSet) -> None:
    corruption = everything(Reader(shards)).corruption
    assert not corruption.masked_tokens.any()
    assert not corruption.masked_regions.any()
    assert not corruption.shuffled_regions.any()
    assert corruption.region_order.tolist() == [[0, 1, 2]] * 12


def test_valid_images_are_read_the_fast_way(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(shards)
    monkeypatch.setattr(reader.files, "record", lambda row: pytest.fail(f"row {row} was read twice"))
    everything(reader)


def test_reused_memory_keeps_nothing_of_the_batch_before(shards: ShardSet) -> None:
    reader, pairs = Reader(shards), torch.arange(12)
    memory = reader.buffers(12, num_random_regions=2)
    for tensor in memory.tensors().values():
        tensor.fill_(1)
    chances = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    matched = torch.ones(12, dtype=torch.bool)
    batch = reader.read(pairs, images=reader.images, matched=matched, random_regions=chances, into=memory)
    fresh = everything(reader)
    for name in memory.tensors():
        assert torch.equal(getattr(batch, name), getattr(fresh, name)), name
        assert getattr(batch, name).data_ptr() == getattr(memory, name).data_ptr(), name


def test_another_msgpack_of_the_same_map_is_read_too(shards: ShardSet) -> None:
    """msgpack with 32-bit lengths everywhere is valid too."""
    record, texts = read_record(shards, 0)
    names = ("image_id", "source", "height", "width")
    head = {name: getattr(record, name) for name in names} | {
        "num_regions": len(record.boxes),
        "feature_width": record.features.shape[1],
        "texts": texts,
    }
    packer = msgpack.Packer()
    payload = packer.pack_map_header(13) + b"".join(packer.pack(name) + packer.pack(head[name]) for name in head)
    for name in ARRAYS:
        data = getattr(record, name).tobytes()
        payload += packer.pack(name) + b"\xc6" + len(data).to_bytes(4, "big") + data
    tar = shards.path / "other.tar"
    tar.write_bytes(payload)
    index = dataclasses.replace(shards.index, shards=(dataclasses.replace(shards.index.shards[0], name="other.tar"),))
    lengths, offsets, crc32 = shards.lengths.copy(), shards.offsets.copy(), shards.crc32.copy()
    lengths[0], offsets[0], crc32[0] = len(payload), 0, zlib.crc32(payload)
    changed = dataclasses.replace(shards, index=index, lengths=lengths, offsets=offsets, crc32=crc32)
    batch = read(Reader(changed), torch.tensor([0, 1]), num_random_regions=0)
    assert torch.equal(batch.features[0], torch.from_numpy(record.features.copy()))
    assert batch.object_ids[0].tolist() == record.object_ids.tolist()


def test_many_images_are_read_by_several_threads_alike(shards: ShardSet) -> None:
    reader = Reader(shards)
    many = torch.arange(12).repeat(20)
    batch, once = read(reader, many, num_random_regions=0), read(reader, torch.arange(12), num_random_regions=0)
    for name in ("features", "boxes", "object_ids", "region_mask"):
        assert torch.equal(getattr(batch, name), getattr(once, name).repeat(20, *[1] * (getattr(once, name).ndim - 1)))


def test_a_random_region_from_a_damaged_image_is_an_error_not_a_wrong_region(shards: ShardSet) -> None:
    reader = Reader(shards)
    damage(shards, row=5, place=int(shards.lengths[5]) - 3)
    with pytest.raises(ShardError, match=rf"{shards.keys[5]} at byte {shards.offsets[5]}: .* checksum"):
        reader.read(
            torch.tensor([0]),
            images=torch.tensor([0]),
            matched=torch.tensor([True]),
            random_regions=torch.tensor([[0.99, 0.0]]),
        )


def damage(shards: ShardSet, *, row: int, place: int) -> Path:
    """Flip one bit of an image's payload."""
    path = shards.shard_paths[shards.shard_of[row]]
    with path.open("r+b") as file:
        file.seek(int(shards.offsets[row]) + place)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    return path


@pytest.mark.parametrize("place", [0, 60, -1])
def test_a_damaged_byte_is_named_with_tar_image_and_offset(shards: ShardSet, place: int) -> None:
    reader = Reader(shards)
    path = damage(shards, row=3, place=place % int(shards.lengths[3]))
    with pytest.raises(ShardError) as caught:
        everything(reader)
    assert str(caught.value) == (
        f"{path}, {shards.keys[3]} at byte {shards.offsets[3]}: the bytes do not match their checksum; "
        "write it again with: msp-ds shard --stage sentence --recipe FILE, or the flags it was written with"
    )


def test_the_other_images_of_a_damaged_tar_can_still_be_read(shards: ShardSet) -> None:
    reader = Reader(shards)
    whole = reader.record(2)
    damage(shards, row=3, place=0)
    assert np.array_equal(reader.record(2).features, whole.features)


def test_a_tar_that_was_cut_off_after_opening_is_named(shards: ShardSet) -> None:
    reader = Reader(shards)
    path = shards.shard_paths[0]
    with path.open("r+b") as file:
        file.truncate(int(shards.offsets[5]) + 8)
    with pytest.raises(ShardError, match=rf"{path.name}, {shards.keys[5]} at byte .* checksum"):
        everything(reader)
    with pytest.raises(ShardError, match="the file ends before its features do"):
        reader.read(
            torch.tensor([0]),
            images=torch.tensor([0]),
            matched=torch.tensor([True]),
            random_regions=torch.tensor([[0.99, 0.99]]),
        )


def test_a_reader_closes_its_files(shards: ShardSet) -> None:
    def open_tars() -> int:
        found = (link.resolve() for link in Path("/proc/self/fd").iterdir())
        return sum(path == shards.shard_paths[0].resolve() for path in found)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list open files")
    reader = Reader(shards)
    assert open_tars() == 1
    del reader
    assert open_tars() == 0
