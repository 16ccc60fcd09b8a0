"""After any damage to a set, every batch is the one that was written, or an error names the file."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from raw_files import RawFolder, Row, write_tsv

from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.records import Batch

PLACES = 500
SEED = 20210801


@pytest.fixture
def folder(raw: RawFolder) -> Path:
    """Sentences of six images, one of them with two regions, with hard negatives."""
    rows = [Row(number) for number in range(1, 7)]
    rows[3].num_boxes = 2
    for name in ("object_ids", "object_scores", "attribute_ids", "attribute_scores", "boxes", "features"):
        setattr(rows[3], name, getattr(rows[3], name)[:2])
    write_tsv(raw.path / "regions.tsv", rows)
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    return raw.path / "shards" / "sentence" / "train"


def batches(folder: Path) -> list[Batch]:
    """All pairs in two batches, with random regions from every image, and with the hard negatives as images."""
    reader = Reader(open_set(folder))
    count, images = len(reader.keys), reader.images
    chances = torch.stack([torch.arange(count) / count, torch.arange(count).flip(0) / count], dim=1)
    matched = torch.ones(count, dtype=torch.bool)
    found = [reader.read(torch.arange(count), images=images, matched=matched, random_regions=chances)]
    if reader.hard_negatives is not None:
        others = reader.hard_negatives[images, 0].long()
        found.append(reader.read(torch.arange(count), images=others, matched=~matched, random_regions=chances[:, :0]))
    return found


def equal(one: Batch, other: Batch) -> bool:
    fields = [item.name for item in dataclasses.fields(one) if item.name != "corruption"]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in fields)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flip a bit, replace a byte, zero a page, cut off the end, or cut out some bytes."""
    place = chance.randrange(len(data))
    match chance.randrange(5):
        case 0:
            return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        case 1:
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        case 2:
            length = min(chance.choice((16, 512, 4096)), len(data) - place)
            return data[:place] + bytes(length) + data[place + length :]
        case 3:
            return data[:place]
    return data[:place] + data[place + chance.randrange(1, 64) :]


def outcome(folder: Path) -> list[Batch] | str:
    """The batches of a set, or the error of reading them."""
    try:
        return batches(folder)
    except InputError as error:
        return str(error)


def test_no_damage_ever_becomes_a_wrong_tensor(folder: Path) -> None:
    chance, whole = random.Random(SEED), batches(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 8
    refused = 0
    for number in range(PLACES):
        path = folder / names[number % len(names)]
        before = path.read_bytes()
        path.write_bytes(damaged(before, chance))
        found = outcome(folder)
        path.write_bytes(before)
        if isinstance(found, str):
            # A damaged index cannot but blame what it no longer describes.
            suspect = folder if path.name == "index.json" else path
            assert str(suspect) in found, (number, path.name, found)
            assert "\n" not in found
            refused += 1
        else:
            assert len(found) == len(whole), f"damage {number} to {path.name} took the hard negatives away"
            assert all(equal(one, other) for one, other in zip(found, whole, strict=True)), (number, path.name)
    assert refused > 0.8 * PLACES
