"""Large jobs: the same bytes from any number of threads, and from a run that was cut short and taken up again."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from raw_files import RawFolder, Row, captions_json, snapshot, write_json, write_tsv

from msp_ds.data.format.shards import open_set
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.verifying.verification import verify_set
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.preparation.writing.shard_writer import SetReport, work_path

ROOT = Path(__file__).resolve().parents[3]
NUM_IMAGES, IMAGES_PER_SHARD = 13, 2


@pytest.fixture
def recipe(raw: RawFolder) -> Recipe:
    """Thirteen images with two captions each, of which three are held out: five tars to train on, two to validate."""
    numbers = range(1, NUM_IMAGES + 1)
    write_tsv(raw.path / "regions.tsv", [Row(number) for number in numbers])
    captions = [(number, text) for number in numbers for text in ("A red dog.", f"the horse is on ball {number}")]
    write_json(raw.path / "captions.json", captions_json(captions))
    return dataclasses.replace(raw.recipe, images_per_shard=IMAGES_PER_SHARD, holdout=3)


def build(recipe: Recipe, out: Path, **changes: Any) -> dict[Any, SetReport]:
    return build_shards(recipe, stage="sentence", out=out, **changes)


CUT_SHORT = """
import os, signal, sys, time
from pathlib import Path
from msp_ds.preparation.recipe import load_recipe
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.terminal import resumable

class Fate:
    label, left = "", int(sys.argv[3])
    def start(self, label, total):
        self.label = label
    def advance(self, amount):
        if self.label.startswith("writing"):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), int(sys.argv[4]))
                time.sleep(2)  # the main thread hears of it; alone this thread could be through with the few images

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
with resumable():
    build_shards(load_recipe(Path(sys.argv[1])), stage="sentence", out=Path(sys.argv[2]), progress=Fate())
"""


def cut_short(recipe: Recipe, out: Path, *, after: int, by: signal.Signals) -> subprocess.CompletedProcess[str]:
    """A build in a process of its own, which gets a signal when it has read `after` images."""
    lines = [
        f"{field.name} = {value!r}" for field in dataclasses.fields(recipe) if (value := _toml(recipe, field.name))
    ]
    toml = out.with_suffix(".toml")
    toml.write_text("\n".join(lines))
    command = [sys.executable, "-c", CUT_SHORT, str(toml), str(out), str(after), str(int(by))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def _toml(recipe: Recipe, name: str) -> Any:
    value = getattr(recipe, name)
    return list(value) if isinstance(value, tuple) else value


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """The tars in train's work folder that need not be written again, with inode and time of change."""
    parts = sorted(work_path(out / "sentence" / "train").glob("*.part"))
    tars = [part.with_suffix("") for part in parts]
    return {tar.name: (tar.stat().st_ino, tar.stat().st_mtime_ns) for tar in tars}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {tar.name: (tar.stat().st_ino, tar.stat().st_mtime_ns) for tar in sorted(folder.glob("*.tar"))}


@pytest.mark.parametrize("num_threads", [2, 3, 16])
def test_any_number_of_threads_gives_the_same_bytes(recipe: Recipe, tmp_path: Path, num_threads: int) -> None:
    build(recipe, tmp_path / "one")
    build(recipe, tmp_path / "many", num_threads=num_threads)
    assert snapshot(tmp_path / "many") == snapshot(tmp_path / "one")
    assert [len(shard.keys) for shard in open_set(tmp_path / "one" / "sentence" / "train").index.shards] == [2] * 5


@pytest.mark.slow
@pytest.mark.parametrize("with_old_set", [False, True])
def test_a_killed_writer_loses_no_finished_tar(recipe: Recipe, tmp_path: Path, with_old_set: bool) -> None:
    build(recipe, tmp_path / "undisturbed")
    out = tmp_path / "killed"
    if with_old_set:
        build(dataclasses.replace(recipe, extractor="old"), out)
    before = snapshot(out / "sentence" / "train")
    # One thread: images 1 to 6 make tars 0 to 2; the 7th is in an unfinished one.
    assert cut_short(recipe, out, after=7, by=signal.SIGKILL).returncode == -signal.SIGKILL
    assert snapshot(out / "sentence" / "train") == before
    kept = finished(out)
    assert list(kept) == ["000000.tar", "000001.tar", "000002.tar"]
    build(recipe, out, num_threads=2)
    assert snapshot(out) == snapshot(tmp_path / "undisturbed")
    assert {name: stamp for name, stamp in stamps(out / "sentence" / "train").items() if name in kept} == kept
    assert not verify_set(out / "sentence" / "train").faults


@pytest.mark.slow
def test_ctrl_c_says_that_the_same_command_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    build(recipe, tmp_path / "undisturbed")
    done = cut_short(recipe, tmp_path / "stopped", after=5, by=signal.SIGINT)
    assert (done.returncode, done.stderr) == (130, "interrupted; the same command continues from here\n")
    kept = finished(tmp_path / "stopped")
    assert "000000.tar" in kept
    build(recipe, tmp_path / "stopped")
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "undisturbed")


def full_after(num_files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full after so many files went down to it."""
    sync, count = os.fsync, iter(range(1000))

    def fsync(descriptor: int) -> None:
        if next(count) >= num_files:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", fsync)


def test_after_a_full_disk_the_finished_tars_are_taken_up(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build(recipe, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        # Two trials; then tar, part and folder of the first shard; then the tar of the second.
        full_after(5, patch)
        with pytest.raises(
            InputError, match=r"\(No space left on device\); free its disk and give the same command; "
        ) as caught:
            build(recipe, tmp_path / "full")
    assert str(caught.value).endswith("finished tars that it keeps: 1")
    assert [path.name for path in sorted(work_path(tmp_path / "full/sentence/train").iterdir())] == [
        "000000.tar",
        "000000.tar.part",
    ]
    caplog.set_level(logging.INFO, "msp_ds")
    caplog.clear()
    build(recipe, tmp_path / "full")
    assert caplog.messages[0] == "resuming an interrupted run: 1 of 7 tars are written"
    assert snapshot(tmp_path / "full") == snapshot(tmp_path / "undisturbed")


def test_a_disk_that_is_really_full_leaves_the_finished_tars(recipe: Recipe, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        with pytest.raises(InputError, match=r"No space left on device\); free its disk and give the same command"):
            build(recipe, disk / "out")
        kept = finished(disk / "out")
        assert kept
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        build(recipe, disk / "out")
        build(recipe, tmp_path / "undisturbed")
        assert snapshot(disk / "out") == snapshot(tmp_path / "undisturbed")
        assert kept.items() <= stamps(disk / "out" / "sentence" / "train").items()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_with_too_little_room_is_told_before_the_work(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9 - 900, 900))
    with pytest.raises(InputError, match=r"sentence would take \d kB more, but its disk has 1 kB free; free some"):
        build(recipe, tmp_path / "out")
    assert snapshot(tmp_path / "out") == {}


def stopped_after(num_shards: int, recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that stopped with so many finished tars."""
    with monkeypatch.context() as patch:
        full_after(2 + 3 * num_shards, patch)
        with pytest.raises(InputError, match="No space left"):
            build(recipe, out)
    assert len(finished(out)) == num_shards


def test_a_disk_that_fills_up_at_the_tables_costs_no_tar(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(recipe, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        full_after(2 + 3 * 7, patch)
        with pytest.raises(InputError, match="finished tars that it keeps: 7"):
            build(recipe, tmp_path / "full")
    kept = finished(tmp_path / "full")
    build(recipe, tmp_path / "full")
    assert stamps(tmp_path / "full" / "sentence" / "train") == kept
    assert snapshot(tmp_path / "full") == snapshot(tmp_path / "undisturbed")


def test_what_changed_since_is_written_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    stopped_after(3, recipe, out, monkeypatch)
    folder = work_path(out / "sentence" / "train")
    (folder / "000000.tar").write_bytes(b"cut")
    (folder / "000001.tar.part").write_bytes(b"PK damaged")
    kept = finished(out)["000002.tar"]
    caplog.set_level(logging.INFO, "msp_ds")
    caplog.clear()
    build(recipe, out)
    assert caplog.messages[0] == "resuming an interrupted run: 1 of 7 tars are written"
    assert stamps(out / "sentence" / "train")["000002.tar"] == kept
    assert not verify_set(out / "sentence" / "train").faults


@pytest.mark.parametrize(
    "changes", [{"holdout": 0}, {"max_tokens": {"sentence": 5}}, {"images_per_shard": 3}, {"vocab": "trained"}]
)
def test_tars_of_another_recipe_are_not_taken_up(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    stopped_after(3, recipe, tmp_path / "out", monkeypatch)
    other = dataclasses.replace(recipe, **changes)
    build(other, tmp_path / "out")
    build(other, tmp_path / "undisturbed")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "undisturbed")


def test_a_fault_of_the_input_leaves_nothing_to_take_up(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(2, recipe, tmp_path / "out", monkeypatch)
    rows = [Row(number) for number in range(1, NUM_IMAGES)]
    write_tsv(Path(recipe.regions[0]), [*rows, Row(NUM_IMAGES, num_boxes="many")])
    with pytest.raises(InputError, match="num_boxes should be a whole number"):
        build(recipe, tmp_path / "out")
    assert snapshot(tmp_path / "out") == {}


def test_of_several_faults_the_first_in_the_file_is_told(recipe: Recipe, tmp_path: Path) -> None:
    rows = [Row(number, height=48 if number < 4 else 0) for number in range(1, NUM_IMAGES + 1)]
    write_tsv(Path(recipe.regions[0]), rows)
    for _ in range(3):
        with pytest.raises(InputError, match=r"regions.tsv row 4 .*height 0"):
            build(dataclasses.replace(recipe, holdout=0), tmp_path / "out", num_threads=6)
