"""Bytes flipped, cut out, doubled or zeroed at seeded places of a file of regions: named or harmless, never a crash."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from raw_files import Row, write_npz, write_tsv

from msp_ds.data.format.faults import Faults
from msp_ds.data.format.region_checks import CheckedRegions, LabelCounts
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import list_region_files, read_or_skip, scan_rows

LABELS = LabelCounts(objects=3, attributes=2)
PLACES = 150
NUM_ROWS = 6


def flip(data: bytes, place: int, rng: random.Random) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def cut_out(data: bytes, place: int, rng: random.Random) -> bytes:
    return data[:place] + data[place + rng.randrange(1, 80) :]


def cut_off(data: bytes, place: int, rng: random.Random) -> bytes:
    return data[:place]


def double(data: bytes, place: int, rng: random.Random) -> bytes:
    return data[:place] + data[max(0, place - rng.randrange(400)) :]


def zero(data: bytes, place: int, rng: random.Random) -> bytes:
    length = min(rng.randrange(1, 300), len(data) - place)
    return data[:place] + bytes(length) + data[place + length :]


DAMAGES: list[Callable[[bytes, int, random.Random], bytes]] = [flip, cut_out, cut_off, double, zero]


def write_source(folder: Path, ending: str) -> Path:
    if ending == ".npz":
        return write_npz(folder / "a.npz")
    plain = write_tsv(folder / "a.tsv", [Row(number) for number in range(1, NUM_ROWS + 1)])
    pack = {".tsv": bytes, ".tsv.gz": gzip.compress, ".tsv.zst": zstandard.ZstdCompressor().compress}[ending]
    path = folder / f"a{ending}"
    path.write_bytes(pack(plain.read_bytes()))
    return path


def read_all(path: Path, faults: Faults) -> list[CheckedRegions]:
    files = list_region_files((str(path),))
    [rows] = scan_rows(files, faults=faults)
    readings = [read_or_skip(files[0], row, labels=LABELS, faults=faults) for row in rows]
    return [reading for reading in readings if reading is not None]


def outcome(path: Path) -> str:
    """The error of reading a file whole; empty when there is none."""
    try:
        readings = read_all(path, Faults("fail"))
    except InputError as error:
        return str(error)
    # Of a file that is cut within its first row nothing tells how wide the features were.
    assert len(readings) == 1 or all(reading.record.features.shape == (3, 4) for reading in readings)
    return ""


@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz", ".tsv.zst", ".npz"])
def test_damage_anywhere_is_named_or_harmless(tmp_path: Path, ending: str) -> None:
    path, rng = write_source(tmp_path, ending), random.Random(0)
    whole, outcomes = path.read_bytes(), []
    for turn in range(PLACES):
        path.write_bytes(DAMAGES[turn % len(DAMAGES)](whole, rng.randrange(len(whole)), rng))
        outcomes.append(outcome(path))
    faults = [message for message in outcomes if message]
    assert all(message.startswith(str(path)) and "\n" not in message for message in faults)
    # A TSV carries no checksum: a flipped bit that leaves sound base64 behind gives other numbers, unnoticed.
    assert len(faults) > PLACES // 2


def test_in_a_tsv_damage_costs_only_the_rows_that_it_touches(tmp_path: Path) -> None:
    path, rng = write_source(tmp_path, ".tsv"), random.Random(1)
    whole = path.read_bytes()
    row_bytes = len(whole) // NUM_ROWS
    for turn in range(PLACES):
        place = rng.randrange(row_bytes, len(whole))
        path.write_bytes(DAMAGES[turn % 2](whole, place, rng))
        faults = Faults("skip")
        readings = read_all(path, faults)
        touched = {place // row_bytes + 1, place // row_bytes + 2}
        kept = {int(reading.record.image_id.removeprefix("coco-")) for reading in readings}
        assert kept >= set(range(1, NUM_ROWS + 1)) - touched
        assert len(readings) + len(faults.skipped) <= NUM_ROWS
