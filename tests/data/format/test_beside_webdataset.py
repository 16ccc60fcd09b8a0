"""Faults other than damaged bytes, compared with webdataset 1.0 and wids 0.1: broken writers, programs as addresses.

Their results are assertions too: docs/own-data.md shows them in a table, which must change when they do.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
import wids
from outcomes import ALL, SILENT, everything, keys_of_theirs, ours, theirs
from raw_files import NUM_IMAGES, RawFolder, snapshot

from msp_ds.data.format.set_layout import unpack_record
from msp_ds.data.format.shards import open_set, read_record
from msp_ds.data.remote.staging import refuse_rewriting
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.preparation.writing.shard_writer import SetPlan, write_set

HERE = Path(__file__).resolve().parent
SMALL, LARGER = 300, 700
"""Bytes of payloads that take 1,024 and 1,536 bytes with header and padding: ten of the first kind end exactly at the
end of a block of writing, 10,240 bytes; none of the second kind does."""


@pytest.fixture
def folder(raw: RawFolder) -> Path:
    """A set of six images in one tar."""
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    return raw.path / "shards" / "sentence" / "train"


def write_theirs(folder: Path, count: int, *, stop_at: int = -1) -> None:
    """Write `count` images by webdataset's writer, and raise an error at image `stop_at`."""
    with webdataset.ShardWriter(str(folder / "%06d.tar"), verbose=0, mtime=0) as writer:
        for number in range(count):
            if number == stop_at:
                raise KeyError(f"row {number}")
            writer.write({"__key__": f"coco-{number}", "mp": bytes([number]) * SMALL})


THEIR_WRITER = """
import os, signal, sys, webdataset
writer = webdataset.ShardWriter(sys.argv[1], verbose=0, mtime=0)
for number in range(15):
    writer.write({"__key__": f"coco-{number}", "mp": bytes([number]) * int(sys.argv[2])})
os.kill(os.getpid(), signal.SIGKILL)
"""

OUR_WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from raw_files import RawFolder
from msp_ds.preparation.writing.shard_building import build_shards

class Fate:
    writing = False
    def start(self, label, total):
        self.writing = label.startswith("writing")
    def advance(self, amount):
        if self.writing:
            os.kill(os.getpid(), signal.SIGKILL)

build_shards(RawFolder._recipe(Path(sys.argv[1])), stage="sentence", out=Path(sys.argv[1]) / "shards", progress=Fate())
"""


def killed(script: str, *words: str) -> None:
    """Run a program that kills itself during its work."""
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=HERE.parents[2], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("size", "found"), [(SMALL, SILENT), (LARGER, "ReadError")])
def test_a_killed_writer_of_theirs_leaves_a_cut_tar_under_its_final_name(tmp_path: Path, size: int, found: str) -> None:
    killed(THEIR_WRITER, str(tmp_path / "%06d.tar"), str(size))
    assert [path.name for path in tmp_path.iterdir()] == ["000000.tar"]
    assert theirs(tmp_path / "000000.tar", written=15) == found


@pytest.mark.slow
def test_a_killed_writer_of_ours_leaves_nothing_under_a_final_name(raw: RawFolder) -> None:
    killed(OUR_WRITER, str(raw.path), str(HERE.parents[1] / "support"))
    left = sorted(path.name for path in (raw.path / "shards" / "sentence").iterdir())
    assert left == [".owner", ".train.partial"]
    assert "no shards for stage sentence" in ours(raw.path / "shards" / "sentence" / "train")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield place
    gc.collect()  # webdataset leaves the files of a failed writer open
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_a_cut_tar_of_theirs_that_reads_without_an_error(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_theirs(disk, 100)
    assert [path.name for path in disk.iterdir()] == ["000000.tar"]
    assert theirs(disk / "000000.tar", written=100) == SILENT


def test_a_full_disk_leaves_nothing_of_ours_under_a_final_name(raw: RawFolder, disk: Path) -> None:
    (disk / "rest").write_bytes(bytes(30_000))
    with pytest.raises(InputError, match="No space left on device"):
        build_shards(raw.recipe, stage="sentence", out=disk / "shards")
    assert not (disk / "shards" / "sentence" / "train").exists()


def test_a_writer_stopped_by_an_error_leaves_a_short_tar_of_theirs_that_looks_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="row 5"):
        write_theirs(tmp_path, 15, stop_at=5)
    assert theirs(tmp_path / "000000.tar", written=15) == SILENT
    assert subprocess.run(["tar", "tf", tmp_path / "000000.tar"], check=False, capture_output=True).returncode == 0


def test_a_writer_stopped_by_an_error_leaves_nothing_of_ours(raw: RawFolder) -> None:
    rows = (raw.path / "regions.tsv").read_bytes().splitlines(keepends=True)
    (raw.path / "regions.tsv").write_bytes(b"".join([*rows[:-1], rows[-1][:-40] + b"\n"]))
    with pytest.raises(InputError, match=r"regions\.tsv row 6"):
        build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    assert snapshot(raw.path / "shards") == {}


def test_two_images_with_one_key_become_one_of_theirs(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), mtime=0) as writer:
        writer.write({"__key__": "photo.1", "mp": b"one"})
        writer.write({"__key__": "photo.2", "mp": b"two"})
    (merged,) = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    assert {name: value for name, value in merged.items() if not name.startswith("__")} == {
        "1.mp": b"one",
        "2.mp": b"two",
    }


def test_two_images_with_one_key_are_refused_by_ours(raw: RawFolder, folder: Path) -> None:
    whole = open_set(folder)
    plan = SetPlan(
        stage="sentence",
        split="train",
        pieces=whole.word_pieces(),
        objects_data=whole.objects_path.read_bytes(),
        attributes_data=whole.attributes_path.read_bytes(),
        max_tokens=20,
    )
    examples = [read_record(whole, row) for row in (0, 1, 0)]
    with pytest.raises(InputError, match="image coco-1 comes twice"):
        write_set(raw.path / "twice", plan=plan, examples=examples, counts={})
    assert not (raw.path / "twice").exists()


def test_a_pipe_address_runs_in_their_hands_and_is_refused_by_ours(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    address = f"pipe:touch {marker}; cat {folder}/000000.tar"
    with pytest.raises(ShardError, match="none runs programs"):
        open_set(Path(address))
    assert not marker.exists()
    assert theirs(address) == ALL
    assert marker.exists()


def test_a_pipe_that_fails_loses_images_of_theirs_without_an_error(folder: Path) -> None:
    boundary = int(open_set(folder).offsets[3]) - 512
    assert theirs(f"pipe:head -c {boundary} {folder}/000000.tar; exit 141") == SILENT


def test_rewritten_addresses_run_programs_in_their_hands_and_not_in_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    monkeypatch.setenv("GOPEN_REWRITE", f"https://example.org/train=pipe:touch {marker} && cat {folder}")
    with pytest.raises(InputError, match="GOPEN_REWRITE is set"):
        refuse_rewriting(os.environ)
    assert ours(folder) == "read"
    assert not marker.exists()
    assert theirs("https://example.org/train/000000.tar") == ALL
    assert marker.exists()


@pytest.fixture
def two_tars(raw: RawFolder) -> Path:
    """A set of six images in tars of three."""
    recipe: Recipe = dataclasses.replace(raw.recipe, images_per_shard=3)
    build_shards(recipe, stage="sentence", out=raw.path / "shards")
    return raw.path / "shards" / "sentence" / "train"


def by_wids(folder: Path, cache: Path) -> Any:
    """The same tars as wids lists them, with size and md5 of each."""
    tars = [
        {
            "url": str(folder / name),
            "nsamples": 3,
            "filesize": (folder / name).stat().st_size if (folder / name).exists() else 0,
            "md5sum": hashlib.md5(b"as it was written").hexdigest(),
        }
        for name in ("000000.tar", "000001.tar")
    ]
    return wids.ShardListDataset(tars, cache_dir=str(cache), transformations=[])


def test_a_flipped_byte_reaches_the_reader_of_wids_and_not_ours(two_tars: Path, tmp_path: Path) -> None:
    shards = open_set(two_tars)
    features = read_record(shards, 4)[0].features
    data = bytearray((two_tars / "000001.tar").read_bytes())
    data[int(shards.offsets[4] + shards.lengths[4]) - 1] ^= 1
    (two_tars / "000001.tar").write_bytes(data)
    found = by_wids(two_tars, tmp_path / "cache")[4]
    record, _ = unpack_record(found[".mp"].read(), where="wids")
    assert (record.image_id, (record.features != features).sum()) == ("coco-5", 1)
    assert "coco-5 at byte" in ours(two_tars)


def test_a_missing_tar_stops_wids_in_the_midst_and_ours_at_the_start(two_tars: Path, tmp_path: Path) -> None:
    everything(open_set(two_tars))
    (two_tars / "000001.tar").unlink()
    listed = by_wids(two_tars, tmp_path / "cache")
    assert (len(listed), listed[2]["__key__"]) == (NUM_IMAGES, "coco-3")
    with pytest.raises(FileNotFoundError):
        listed[3]
    assert keys_of_theirs(two_tars / "000000.tar") == ["coco-1", "coco-2", "coco-3"]
    with pytest.raises(ShardError, match=r"000001\.tar is missing"):
        open_set(two_tars)


def test_every_row_of_the_table_of_faults_has_its_test() -> None:
    page = (HERE.parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
    table = page.partition("## What a fault leads to")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    tests = "".join(path.read_text() for path in HERE.parents[1].rglob("test_*.py"))
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    assert len(rows) == 21
    assert all(names for names in named)
    assert not [name for names in named for name in names if f"def {name}(" not in tests]
