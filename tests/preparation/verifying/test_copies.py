"""Remote sets are copied whole to be verified and inspected; files that differ from their index are named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import Served, serving
from raw_files import RawFolder, snapshot
from typer.testing import CliRunner

from msp_ds.cli import app
from msp_ds.data.progress import NoProgress
from msp_ds.data.remote import remote_files
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.verifying.copies import local_copies
from msp_ds.preparation.writing.shard_building import build_shards

TRAIN, VAL = "sentence/train", "sentence/val"


@pytest.fixture
def server(raw: RawFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Sentences with two images held out, at ADDRESS/sentence/train and ADDRESS/sentence/val."""
    build_shards(dataclasses.replace(raw.recipe, holdout=2), stage="sentence", out=raw.path / "shards")
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0.01)
    with serving(raw.path / "shards") as served:
        yield served


def copied(server: Served, cache: Path, path: str = "", *, limit_gb: float = 1.0) -> list[dict[str, bytes]]:
    """What the folders that an address stands for hold."""
    address = f"{server.address}/{path}"
    with local_copies([address], cache=cache, limit_gb=limit_gb, progress=NoProgress()) as folders:
        return [snapshot(folder) for folder in folders]


def test_the_address_of_a_set_brings_that_set_alone(server: Served, tmp_path: Path) -> None:
    assert copied(server, tmp_path / "cache", VAL) == [snapshot(server.folder / VAL)]
    assert not any(path.startswith(TRAIN) for path in server.requests)


def test_the_address_of_a_folder_brings_the_sets_below_it(server: Served, tmp_path: Path) -> None:
    assert copied(server, tmp_path / "cache") == [snapshot(server.folder / name) for name in (TRAIN, VAL)]


def test_what_is_in_the_cache_is_not_fetched_again(server: Served, tmp_path: Path) -> None:
    copied(server, tmp_path / "cache", VAL)
    server.requests.clear()
    copied(server, tmp_path / "cache", VAL)
    assert server.requests == [f"{VAL}/index.json"]


def test_paths_stand_for_themselves(tmp_path: Path) -> None:
    with local_copies(["a", "b/c"], cache=tmp_path / "cache", limit_gb=1, progress=NoProgress()) as folders:
        assert folders == [Path("a"), Path("b/c")]
    assert not (tmp_path / "cache").exists()


def test_every_file_that_differs_is_named(server: Served, tmp_path: Path) -> None:
    (server.folder / VAL / "000000.tar").unlink()
    tar = server.folder / TRAIN / "000000.tar"
    tar.write_bytes(tar.read_bytes()[::-1])
    with pytest.raises(ShardError) as caught:
        copied(server, tmp_path / "cache")
    assert f"{server.address}/{TRAIN}/000000.tar holds other bytes than its index says" in str(caught.value)
    assert f"{server.address}/{VAL}/000000.tar is missing, though the index lists it" in str(caught.value)
    assert not list((tmp_path / "cache").glob("copies/*/*"))


def test_an_address_without_sets_is_named(server: Served, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"/elsewhere/index\.json is missing, nor is there any of token/train, .*give"):
        copied(server, tmp_path / "cache", "elsewhere")


def test_sets_that_the_cache_cannot_hold_are_refused_with_their_size(server: Served, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"take 0\.0 GB, .*give --cache-limit 0\.1"):
        copied(server, tmp_path / "cache", VAL, limit_gb=1e-6)


def test_names_that_would_leave_the_folder_are_refused(server: Served, tmp_path: Path) -> None:
    path = server.folder / VAL / "index.json"
    index = json.loads(path.read_text())
    index["files"]["../x"] = index["files"].pop("vocab.txt")
    path.write_text(json.dumps(index))
    with pytest.raises(ShardError, match="whose name, size or sha256 is not valid"):
        copied(server, tmp_path / "cache", VAL)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "300"})
    return result.exit_code, result.output


def test_verify_and_inspect_take_addresses(server: Served, tmp_path: Path) -> None:
    cache = ("--cache", str(tmp_path / "cache"))
    status, output = run("verify", server.address, *cache)
    assert (status, output.count("every byte as written")) == (0, 2)
    status, output = run("inspect", f"{server.address}/{VAL}", *cache)
    assert status == 0
    assert "coco-" in output


def test_verify_and_inspect_refuse_in_one_line(server: Served, tmp_path: Path) -> None:
    cache = ("--cache", str(tmp_path / "cache"))
    status, output = run("inspect", server.address, *cache)
    assert (status, output.count("\n")) == (2, 1)
    assert f"{server.address}/index.json is missing; give the address of a shard set" in output
    status, output = run("verify", "pipe:touch ran", *cache)
    assert (status, output.count("\n")) == (2, 1)
    assert "programs are never run" in output
    (server.folder / VAL / "000000.tar").unlink()
    status, output = run("verify", f"{server.address}/{VAL}", *cache)
    assert (status, output.count("\n")) == (2, 1)
    assert "000000.tar is missing, though the index lists it; upload it again" in output
