"""Features that lie on the device make the batches that features from the shards make, bit for bit."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_files import RawFolder, Row, write_tsv
from torch import Tensor

from msp_ds.data.format.shards import ShardSet, open_set, read_record
from msp_ds.data.loading.image_files import ImageFiles
from msp_ds.data.loading.reader import Reader
from msp_ds.data.loading.resident import FeatureTable, ResidentImages, table_bytes
from msp_ds.errors import ShardError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.records import Batch
from msp_ds.storage.checksums import joined_crc32

CPU = torch.device("cpu")


def image(number: int, num_regions: int = 3) -> Row:
    row = Row(number, num_boxes=num_regions)
    for name in ("object_ids", "object_scores", "attribute_ids", "attribute_scores", "boxes", "features"):
        setattr(row, name, getattr(row, name)[:num_regions])
    return row


def write_set(raw: RawFolder, stage: str, rows: list[Row], *, out: str = "shards") -> ShardSet:
    write_tsv(raw.path / "regions.tsv", rows)
    build_shards(raw.recipe, stage=stage, out=raw.path / out)  # type: ignore[arg-type]
    return open_set(raw.path / out / stage / "train")


def six_images() -> list[Row]:
    """Image 2 has one region, image 5 two, the others three."""
    return [image(1), image(2, 1), image(3), image(4), image(5, 2), image(6)]


@pytest.fixture
def shards(raw: RawFolder) -> ShardSet:
    return write_set(raw, "sentence", six_images())


def among(shards: ShardSet, table: FeatureTable) -> ResidentImages:
    """The images of a set in a table that has them."""
    rows = table.rows_of(shards)
    assert rows is not None
    return ResidentImages(ImageFiles(shards), table, rows)


def resident(shards: ShardSet, *, at_once: int = 4) -> ResidentImages:
    """All images of a set, loaded a few at a time."""
    images = among(shards, FeatureTable(shards, CPU))
    through = torch.empty(at_once, shards.index.num_regions, shards.index.feature_width, dtype=torch.float16)
    for start in range(0, len(shards.keys), at_once):
        images.load(start, min(start + at_once, len(shards.keys)), through)
    return images


def batch_of(reader: Reader, pairs: Tensor, images: Tensor, *, num_random_regions: int = 3) -> Batch:
    chances = torch.rand(len(pairs), 2 * num_random_regions, generator=torch.Generator().manual_seed(0))
    return reader.read(pairs, images=images, matched=reader.images[pairs] == images, random_regions=chances)


def assert_same_bits(one: Batch, other: Batch) -> None:
    for item in dataclasses.fields(one):
        if item.name != "corruption":
            mine, theirs = getattr(one, item.name), getattr(other, item.name)
            assert mine.dtype == theirs.dtype, item.name
            assert mine.is_contiguous(), item.name
            assert torch.equal(mine, theirs), item.name
    for item in dataclasses.fields(one.corruption):
        assert torch.equal(getattr(one.corruption, item.name), getattr(other.corruption, item.name)), item.name


@pytest.mark.parametrize("at_once", [1, 4, 6])
def test_batches_are_those_from_the_shards(shards: ShardSet, at_once: int) -> None:
    """Own images and others, fewer regions than slots, random regions, any number of images loaded together."""
    reader = Reader(shards)
    other = reader.through(resident(shards, at_once=at_once))
    pairs, images = torch.tensor([7, 0, 7, 3, 11, 2]), torch.tensor([1, 4, 0, 1, 5, 5])
    assert_same_bits(batch_of(other, pairs, images), batch_of(reader, pairs, images))
    everything = torch.arange(len(reader.keys))
    assert_same_bits(batch_of(other, everything, reader.images), batch_of(reader, everything, reader.images))


def test_random_regions_come_from_the_images_at_hand_alone(shards: ShardSet) -> None:
    reader = Reader(shards).among(torch.tensor([1, 4]))
    pairs = torch.arange(12)
    batch = batch_of(reader.through(resident(shards)), pairs, reader.images)
    assert_same_bits(batch, batch_of(reader, pairs, reader.images))
    known = {tuple(region) for row in (1, 4) for region in read_record(shards, row)[0].features.tolist()}
    assert {tuple(region) for region in batch.random_features.flatten(0, 1).tolist()} <= known


def test_reused_memory_keeps_nothing_of_the_batch_before(shards: ShardSet) -> None:
    reader = Reader(shards).through(resident(shards))
    memory = reader.buffers(12, num_random_regions=0)
    assert memory.features.shape == (12, 3, 0), "features do not pass through it"
    for tensor in memory.tensors().values():
        tensor.fill_(1)
    matched = torch.ones(12, dtype=torch.bool)
    random_regions = torch.zeros(12, 0)
    batch = reader.read(
        torch.arange(12), images=reader.images, matched=matched, random_regions=random_regions, into=memory
    )
    assert_same_bits(batch, batch_of(Reader(shards), torch.arange(12), reader.images, num_random_regions=0))


def test_a_table_takes_two_bytes_a_number_and_one_region_of_zeros(shards: ShardSet) -> None:
    # 3 + 1 + 3 + 3 + 2 + 3 regions of 4 numbers
    table = resident(shards).table
    assert table_bytes(shards) == table.num_bytes == (15 + 1) * 4 * 2
    assert table.at(np.array([[table.padding]])).tolist() == [[[0.0] * 4]]
    assert table.first.tolist() == [0, 3, 4, 7, 10, 12]


def test_features_of_an_odd_width_are_gathered_too(shards: ShardSet) -> None:
    wider = dataclasses.replace(shards, index=dataclasses.replace(shards.index, feature_width=6))
    table, features = FeatureTable(wider, CPU), torch.arange(6 * 3 * 6).view(6, 3, 6).half()
    table.put(0, features)
    # image 4 has two regions, the first of them after ten others
    assert torch.equal(
        table.at(np.array([[11, table.padding]])), torch.stack((features[4, 1], torch.zeros(6).half()))[None]
    )


def test_a_damaged_image_is_an_error_with_its_place(shards: ShardSet) -> None:
    path = shards.shard_paths[shards.shard_of[4]]
    with path.open("r+b") as file:
        file.seek(int(shards.offsets[4]) + int(shards.lengths[4]) - 3)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(ShardError, match=rf"{shards.keys[4]} at byte {shards.offsets[4]}: the bytes do not match"):
        resident(shards)


def test_a_stage_with_the_same_images_uses_the_table_of_another(raw: RawFolder, shards: ShardSet) -> None:
    """Its payloads have other texts, so other checksums; only what stands before the features is read."""
    labels = write_set(raw, "token", six_images())
    assert (labels.crc32 != shards.crc32).all()
    images = among(labels, resident(shards).table)
    assert images.recognise(0, 4)
    assert images.recognise(4, 6)
    reader = Reader(labels)
    pairs, others = torch.arange(len(reader.keys)), reader.images.flip(0)
    assert_same_bits(batch_of(reader.through(images), pairs, others), batch_of(reader, pairs, others))


def test_a_set_of_some_of_the_images_uses_the_table_too(raw: RawFolder, shards: ShardSet) -> None:
    fewer = write_set(raw, "token", six_images()[1:5])
    images = among(fewer, resident(shards).table)
    assert images.recognise(0, 4)
    reader = Reader(fewer)
    pairs = torch.arange(len(reader.keys))
    assert_same_bits(batch_of(reader.through(images), pairs, reader.images), batch_of(reader, pairs, reader.images))


def test_a_table_without_an_image_or_with_another_number_of_regions_is_not_used(
    raw: RawFolder, shards: ShardSet
) -> None:
    table = resident(shards).table
    more = write_set(raw, "token", [*six_images(), image(7)], out="more")
    other = write_set(raw, "token", [*six_images()[:5], image(6, 2)], out="other")
    assert table.rows_of(more) is None
    assert table.rows_of(other) is None
    assert table.rows_of(shards).tolist() == [0, 1, 2, 3, 4, 5]  # type: ignore[union-attr]


def test_images_with_other_features_are_not_recognised(raw: RawFolder, shards: ShardSet) -> None:
    rows = six_images()
    rows[3].features = rows[3].features + np.float32(0.5)
    changed = write_set(raw, "token", rows)
    images = among(changed, resident(shards).table)
    assert images.recognise(0, 3)
    assert not images.recognise(3, 6)


def test_an_image_of_another_name_is_not_recognised(raw: RawFolder) -> None:
    """Two images of the same features, each in the place of the other: the checksums agree."""
    rows = six_images()
    rows[3].features = rows[0].features
    shards = write_set(raw, "sentence", rows)
    table = resident(shards).table
    keys = [*shards.keys]
    keys[0], keys[3] = keys[3], keys[0]
    images = among(dataclasses.replace(shards, keys=tuple(keys)), table)
    assert images.recognise(1, 3)
    assert not images.recognise(0, 1)


def test_a_table_that_the_system_has_no_memory_for_is_one_error(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    vast = dataclasses.replace(shards, index=dataclasses.replace(shards.index, feature_width=2**52))
    with pytest.raises(MemoryError, match="no memory for 16 regions"):  # of torch's RuntimeError for a CPU
        FeatureTable(vast, CPU)
    for error, expected in ((torch.OutOfMemoryError("CUDA"), MemoryError), (RuntimeError("a bug"), RuntimeError)):
        monkeypatch.setattr(torch, "empty", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(expected):
            FeatureTable(shards, CPU)


def test_a_damaged_head_is_not_recognised(raw: RawFolder, shards: ShardSet) -> None:
    labels = write_set(raw, "token", six_images())
    with Path(labels.shard_paths[0]).open("r+b") as file:
        file.seek(int(labels.offsets[2]) + 30)
        file.write(b"\xff")
    images = among(labels, resident(shards).table)
    assert images.recognise(0, 2)
    assert not images.recognise(2, 3)


def test_the_sum_of_two_pieces_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    heads = [rng.bytes(int(size)) for size in rng.integers(0, 50, 40)]
    tails = [rng.bytes(int(size)) for size in rng.choice([0, 1, 7, 4096], 40)]
    sums = joined_crc32(
        np.array([zlib.crc32(one) for one in heads], np.uint32),
        np.array([zlib.crc32(one) for one in tails], np.uint32),
        np.array([len(one) for one in tails]),
    )
    assert sums.tolist() == [zlib.crc32(head + tail) for head, tail in zip(heads, tails, strict=True)]
