"""Shards from a server arrive unchanged, or an error says what is wrong; nothing is fetched twice."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from file_server import Server, serving
from raw_files import RawFolder, snapshot

from msp_ds.data.remote import remote_files
from msp_ds.data.remote.blob_cache import BlobCache
from msp_ds.data.remote.remote_files import is_remote
from msp_ds.data.remote.staging import local_shards, refuse_rewriting
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.verifying.verification import verify_set
from msp_ds.preparation.writing.shard_building import build_shards

TAR = "/sentence/train/000000.tar"


@pytest.fixture
def server(raw: RawFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Sentences with two images held out; pieces of 1,000 bytes; no waiting."""
    recipe = raw.recipe
    build_shards(type(recipe)(**{**vars(recipe), "holdout": 2}), stage="sentence", out=raw.path / "shards")
    monkeypatch.setattr(remote_files, "PIECE", 1000)
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0.01)
    with serving(raw.path / "shards") as served:
        yield served


@dataclass
class Counted:
    """Sums up the progress that it is given."""

    total: int = 0
    done: int = 0

    def start(self, label: str, total: int | None) -> None:
        self.total = total or 0

    def advance(self, amount: int) -> None:
        self.done += amount


def stage(server: Server, cache: Path, *, limit_gb: float = 1.0, stages: tuple[str, ...] = ("sentence",)) -> Counted:
    """Fetch the sets and compare them with those of the server."""
    progress = Counted()
    with local_shards(server.address, stages, cache=cache, limit_gb=limit_gb, progress=progress) as folder:
        for name in ("sentence/train", "sentence/val"):
            if (server.folder / name).exists():
                assert not verify_set(folder / name).faults
                assert snapshot(folder / name) == snapshot(server.folder / name)
            else:
                assert not (folder / name).exists()
    return progress


def tar_requests(server: Server) -> list[str]:
    return [request for request in server.requests if request.startswith(TAR)]


def test_sets_arrive_byte_for_byte_and_progress_ends_at_the_total(server: Server, tmp_path: Path) -> None:
    progress = stage(server, tmp_path / "cache")
    assert progress.done == progress.total > 10_000
    assert len(tar_requests(server)) > 1


def test_what_is_there_is_not_fetched_again_but_the_index_is(server: Server, tmp_path: Path) -> None:
    stage(server, tmp_path / "cache")
    server.requests.clear()
    progress = stage(server, tmp_path / "cache")
    assert server.requests == ["/sentence/train/index.json@0", "/sentence/val/index.json@0"]
    assert progress.done == progress.total


def test_a_server_without_range_requests_works_too(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    stage(server, tmp_path / "cache")


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    with local_shards(
        str(tmp_path / "a"), ["token"], cache=tmp_path / "cache", limit_gb=1, progress=Counted()
    ) as folder:
        assert folder == tmp_path / "a"
    assert not (tmp_path / "cache").exists()


def test_a_set_without_held_out_images_has_no_val_folder(server: Server, tmp_path: Path) -> None:
    stage(server, tmp_path / "cache")
    for path in sorted((server.folder / "sentence" / "val").iterdir()):
        path.unlink()
    (server.folder / "sentence" / "val").rmdir()
    stage(server, tmp_path / "cache")


def test_a_stage_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"{server.address}/token/train/index.json is missing"):
        stage(server, tmp_path / "cache", stages=("token",))


def test_a_tar_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    (server.folder / TAR.lstrip("/")).unlink()
    with pytest.raises(ShardError, match=rf"{server.address}{TAR} is missing, though the index lists it"):
        stage(server, tmp_path / "cache")
    assert len(tar_requests(server)) == 1, "a missing file is not requested again"


def test_a_connection_that_is_cut_once_is_retried(server: Server, tmp_path: Path) -> None:
    cuts = iter([300])
    server.cut = lambda path, start: next(cuts, None) if path == TAR and start == 2000 else None
    stage(server, tmp_path / "cache")
    assert tar_requests(server).count(f"{TAR}@2000") == 2
    assert tar_requests(server).count(f"{TAR}@1000") == 1


def test_a_connection_cut_again_and_again_is_an_error_and_the_next_run_continues(
    server: Server, tmp_path: Path
) -> None:
    server.cut = lambda path, start: 300 if path == TAR and start == 2000 else None
    with pytest.raises(
        ShardError, match=rf"{server.address}{TAR} could not be fetched in 3 attempts .*continues where"
    ):
        stage(server, tmp_path / "cache")
    server.cut = lambda path, start: None
    server.requests.clear()
    stage(server, tmp_path / "cache")
    assert tar_requests(server)[0] == f"{TAR}@2000"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_of_another_length_is_refused(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    server.change = lambda path, data: data[:-700] if path == TAR else data
    with pytest.raises(ShardError, match=rf"{server.address}{TAR} could not be fetched .*it sent \d+ bytes instead of"):
        stage(server, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("sets/*/sentence/train"))


def test_other_bytes_of_the_same_length_are_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.change = lambda path, data: data[:600] + b"\x01" + data[601:] if path == TAR else data
    with pytest.raises(ShardError, match=rf"{server.address}{TAR} holds other bytes than its index says"):
        stage(server, tmp_path / "cache")
    server.change = lambda path, data: data
    stage(server, tmp_path / "cache")


def test_another_tar_in_its_place_is_refused(server: Server, tmp_path: Path) -> None:
    other = (server.folder / "sentence" / "val" / "000000.tar").read_bytes()
    server.change = lambda path, data: other if path == TAR else data
    with pytest.raises(ShardError, match=rf"{server.address}{TAR} "):
        stage(server, tmp_path / "cache")


def test_a_broken_beginning_on_the_disk_is_fetched_again(server: Server, tmp_path: Path) -> None:
    index = json.loads((server.folder / "sentence/train/index.json").read_text())
    part = BlobCache(tmp_path / "cache", limit=10**9).part(index["shards"][0]["sha256"])
    part.write_bytes(b"\x07" * 1500)
    progress = stage(server, tmp_path / "cache")
    assert tar_requests(server)[0] == f"{TAR}@1500"
    assert f"{TAR}@0" in tar_requests(server)
    assert progress.done == progress.total


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"{}"])
def test_an_index_that_is_none_is_refused(server: Server, tmp_path: Path, body: bytes) -> None:
    server.change = lambda path, data: body if path.endswith("index.json") else data
    with pytest.raises(ShardError, match=rf"{server.address}/sentence/train/index.json is .*; upload the set again"):
        stage(server, tmp_path / "cache")


@pytest.mark.parametrize(
    ("old", "new"), [('"vocab.txt"', '"../../x"'), ('"pairs.npz"', '".hidden"'), ('"000000.tar"', '"index.json"')]
)
def test_names_that_would_leave_the_folder_are_refused(server: Server, tmp_path: Path, old: str, new: str) -> None:
    server.change = lambda path, data: data.replace(old.encode(), new.encode()) if "index.json" in path else data
    with pytest.raises(ShardError, match="whose name, size or sha256 is not valid"):
        stage(server, tmp_path / "cache")


def test_two_files_of_one_name_are_kept_apart(server: Server, tmp_path: Path) -> None:
    """webdataset's cache_dir would serve the first 000000.tar for both."""
    stage(server, tmp_path / "cache")
    tars = {path.resolve().read_bytes() for path in (tmp_path / "cache" / "sets").rglob("000000.tar")}
    assert tars == {(server.folder / f"sentence/{split}/000000.tar").read_bytes() for split in ("train", "val")}


def test_a_cache_that_is_too_small_is_reported_with_the_size_that_suffices(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"take 0\.0 GB, which must all fit .*give --cache-limit 0\.1"):
        stage(server, tmp_path / "cache", limit_gb=1e-6)
    assert not tar_requests(server)


def test_a_full_disk_is_seen_before_the_first_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msp_ds.data.remote import blob_cache

    monkeypatch.setattr(blob_cache.shutil, "disk_usage", lambda path: Free())
    with pytest.raises(InputError, match=r"its disk has 0\.0 GB left; make room, or choose another --cache"):
        stage(server, tmp_path / "cache")


class Free:
    free = 100


def test_a_disk_that_fills_up_while_staging_is_named_and_leaves_no_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote_files.os, "fsync", full)
    with pytest.raises(ShardError, match="is full; make room, or choose another --cache"):
        stage(server, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "blobs").iterdir())


def test_the_least_recently_used_files_are_evicted_but_not_those_in_use(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, limit=100)
    first, second, third, needed = (letter * 64 for letter in "abcd")
    for number, name in enumerate((first, second, third)):
        cache.path(name).write_bytes(bytes(30))
        os.utime(cache.path(name), (number, number))
    with cache.hold([second]):
        os.utime(cache.path(second), (1, 1))
        cache.make_room({needed: 60}, what="sets")
        assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == [second]
    cache.make_room({needed: 100}, what="sets")
    assert not list((tmp_path / "blobs").iterdir())


def test_files_that_the_cache_did_not_write_are_neither_evicted_nor_emptied(tmp_path: Path) -> None:
    mine = [tmp_path / "blobs" / "photo.jpg", tmp_path / "blobs" / "album" / "a", tmp_path / "lock"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    cache = BlobCache(tmp_path, limit=8)
    with cache.locked():
        cache.make_room({"d" * 64: 8}, what="sets")
    assert [path.read_text() for path in mine] == ["precious"] * 3


def test_after_a_killed_staging_the_next_one_continues(server: Server, tmp_path: Path) -> None:
    server.pause = 0.1
    script = (
        "from msp_ds.data.remote import remote_files, staging\n"
        "from pathlib import Path\n"
        "remote_files.PIECE = 1000\n"
        "class Quiet:\n"
        "    start = advance = lambda self, *words: None\n"
        f"with staging.local_shards({server.address!r}, ['sentence'], cache=Path({str(tmp_path / 'cache')!r}),"
        " limit_gb=1, progress=Quiet()): pass\n"
    )
    stager = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while f"{TAR}@2000" not in server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    stager.send_signal(signal.SIGKILL)
    stager.wait()
    assert not list((tmp_path / "cache").glob("sets/*/sentence/train"))
    server.pause = 0.0
    server.requests.clear()
    stage(server, tmp_path / "cache")
    assert tar_requests(server)[0] in (f"{TAR}@1000", f"{TAR}@2000", f"{TAR}@3000")


@pytest.mark.parametrize("address", ["https://host/a", "http://host/a", "s3://bucket/a", "gs://bucket/a"])
def test_known_addresses_are_remote(address: str) -> None:
    assert is_remote(address)


@pytest.mark.parametrize("path", ["shards", "/data/shards", "C:/shards", "./a:b/shards"])
def test_paths_are_not(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize("address", ["pipe:cat a.tar", "ftp://host/a", "file:///shards", "https:/host/a", "hdfs://a"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="give a folder, or an https://, s3:// or gs:// address; programs are never"):
        is_remote(address)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match="s3:// needs the package s3fs; run: pip install s3fs"):
        remote_files.RemoteFolder("s3://bucket/shards")


def test_rewritten_addresses_are_refused() -> None:
    refuse_rewriting({"PATH": "/bin"})
    with pytest.raises(InputError, match=r"GOPEN_REWRITE is set.*unset GOPEN_REWRITE"):
        refuse_rewriting({"GOPEN_REWRITE": "https://=pipe:curl "})
