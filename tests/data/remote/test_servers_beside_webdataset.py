"""Servers that cut, shorten or exchange what they send: fetched by us, and streamed by webdataset 1.0 through curl."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import Served, serving
from outcomes import ALL, SILENT, keys_of_theirs, theirs
from raw_files import RawFolder

from msp_ds.data.format.set_tables import TAR_BLOCK
from msp_ds.data.format.shards import open_set
from msp_ds.data.progress import NoProgress
from msp_ds.data.remote import remote_files
from msp_ds.data.remote.staging import local_shards
from msp_ds.errors import ShardError
from msp_ds.preparation.writing.shard_building import build_shards

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http:// through curl")

TRAIN, VAL = "sentence/train/000000.tar", "sentence/val/000000.tar"
ERRORS = ("OSError", "ReadError")
"""The error depends on whether curl has ended when the last byte is read."""


@pytest.fixture
def server(raw: RawFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Sentences of three training images and three held-out ones."""
    build_shards(dataclasses.replace(raw.recipe, holdout=3), stage="sentence", out=raw.path / "shards")
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0.01)
    with serving(raw.path / "shards") as served:
        yield served


def ours(server: Served, cache: Path) -> str:
    """Return `fetched`, or our error."""
    try:
        with local_shards(server.address, ("sentence",), cache=cache, limit_gb=1, progress=NoProgress()):
            return "fetched"
    except ShardError as error:
        return str(error)


def boundary(server: Served) -> int:
    """The byte at which the third image of the training tar begins."""
    return int(open_set(server.folder / "sentence" / "train").offsets[2]) - TAR_BLOCK


def test_a_sound_server_serves_both(server: Served, tmp_path: Path) -> None:
    assert ours(server, tmp_path / "cache") == "fetched"
    assert theirs(f"{server.address}/{TRAIN}", written=3) == ALL


def test_a_cut_connection_is_an_error_of_both(server: Served, tmp_path: Path) -> None:
    place = boundary(server) + TAR_BLOCK + 10
    server.cut = lambda path: place if path == TRAIN else None
    assert f"{TRAIN} could not be fetched in 3 attempts" in ours(server, tmp_path / "cache")
    assert theirs(f"{server.address}/{TRAIN}", written=3) in ERRORS


def test_a_server_that_sends_another_length_loses_images_of_theirs_without_an_error(
    server: Served, tmp_path: Path
) -> None:
    place = boundary(server)
    server.change = lambda path, data: data[:place] if path == TRAIN else data
    assert f"it sent {place} bytes instead of" in ours(server, tmp_path / "cache")
    assert theirs(f"{server.address}/{TRAIN}", written=3) == SILENT


def test_a_server_that_sends_another_tar_gives_theirs_other_images(server: Served, tmp_path: Path) -> None:
    held_out = keys_of_theirs(server.folder / VAL)
    server.change = lambda path, data: (server.folder / VAL).read_bytes() if path == TRAIN else data
    message = ours(server, tmp_path / "cache")
    assert f"{TRAIN} holds other bytes than its index says" in message or f"{TRAIN} could not be fetched" in message
    assert keys_of_theirs(f"{server.address}/{TRAIN}") == held_out


def test_a_page_of_html_is_an_error_of_both(server: Served, tmp_path: Path) -> None:
    server.change = lambda path, data: b"<html>404</html>" * 50 if path == TRAIN else data
    assert f"{TRAIN} could not be fetched in 3 attempts (it sent 800 bytes" in ours(server, tmp_path / "cache")
    assert theirs(f"{server.address}/{TRAIN}", written=3) == "ReadError"


def test_a_missing_tar_on_a_server_is_an_error_of_both(server: Served, tmp_path: Path) -> None:
    (server.folder / TRAIN).rename(server.folder / "elsewhere.tar")
    assert f"{TRAIN} is missing, though the index lists it" in ours(server, tmp_path / "cache")
    assert theirs(f"{server.address}/{TRAIN}", written=3) in ERRORS


def test_the_second_of_two_tars_with_one_name_is_never_read_from_their_cache(server: Served, tmp_path: Path) -> None:
    addresses = [f"{server.address}/{name}" for name in (TRAIN, VAL)]
    (tmp_path / "theirs").mkdir()
    found = [keys_of_theirs(address, cache_dir=str(tmp_path / "theirs")) for address in addresses]
    assert found[0] == found[1] == keys_of_theirs(server.folder / TRAIN)
    with local_shards(
        server.address, ("sentence",), cache=tmp_path / "ours", limit_gb=1, progress=NoProgress()
    ) as here:
        assert [keys_of_theirs(here / name) for name in (TRAIN, VAL)] == [
            keys_of_theirs(server.folder / name) for name in (TRAIN, VAL)
        ]
