"""Sets in buckets: s3:// and gs:// through the usual packages, against a server on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import gcsfs
import pytest
import s3fs
from object_server import Served, serving
from raw_files import RawFolder, snapshot

from msp_ds.data.progress import NoProgress
from msp_ds.data.remote import remote_files
from msp_ds.data.remote.staging import local_shards
from msp_ds.errors import ShardError
from msp_ds.preparation.verifying.copies import local_copies
from msp_ds.preparation.writing.shard_building import build_shards

TAR = "shards/sentence/train/000000.tar"
SCHEMES = ("s3", "gs")


@pytest.fixture
def bucket(raw: RawFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Sentences with two images held out, in the bucket `shards`; pieces of 1,000 bytes; no waiting."""
    build_shards(dataclasses.replace(raw.recipe, holdout=2), stage="sentence", out=raw.path / "shards")
    monkeypatch.setattr(remote_files, "PIECE", 1000)
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0.01)
    for store in (s3fs.S3FileSystem, gcsfs.GCSFileSystem):
        store.clear_instance_cache()
    with serving(raw.path) as served:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": served.address,
            "STORAGE_EMULATOR_HOST": served.address,
        }.items():
            monkeypatch.setenv(name, value)
        yield served
    for store in (s3fs.S3FileSystem, gcsfs.GCSFileSystem):
        store.clear_instance_cache()


def stage(scheme: str, cache: Path, *, name: str = "sentence") -> dict[str, bytes]:
    """The bytes of all files of the copy."""
    address = f"{scheme}://shards"
    with local_shards(address, (name,), cache=cache, limit_gb=1, progress=NoProgress()) as folder:
        return snapshot(folder)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sets_in_a_bucket_arrive_byte_for_byte(bucket: Served, tmp_path: Path, scheme: str) -> None:
    assert stage(scheme, tmp_path / "cache") == snapshot(bucket.folder / "shards")
    assert bucket.requests.count(TAR) > 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_set_in_a_bucket_is_copied_for_commands(bucket: Served, tmp_path: Path, scheme: str) -> None:
    address = f"{scheme}://shards/sentence/val"
    with local_copies([address], cache=tmp_path / "cache", limit_gb=1, progress=NoProgress()) as (folder,):
        assert snapshot(folder) == snapshot(bucket.folder / "shards" / "sentence" / "val")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_stage_that_is_not_in_the_bucket_is_named(bucket: Served, tmp_path: Path, scheme: str) -> None:
    with pytest.raises(ShardError, match=rf"{scheme}://shards/token/train/index\.json is missing"):
        stage(scheme, tmp_path / "cache", name="token")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_in_a_bucket_that_is_missing_short_or_other_is_refused(
    bucket: Served, tmp_path: Path, scheme: str
) -> None:
    bucket.change = lambda path, data: data[:600] + b"\x01" + data[601:] if path == TAR else data
    with pytest.raises(ShardError, match=rf"{scheme}://{TAR} holds other bytes than its index says"):
        stage(scheme, tmp_path / "cache")
    bucket.change = lambda path, data: data[:-700] if path == TAR else data
    with pytest.raises(ShardError, match=rf"{scheme}://{TAR} could not be fetched .*instead of"):
        stage(scheme, tmp_path / "cache")
    (bucket.folder / TAR).unlink()
    with pytest.raises(ShardError, match=rf"{scheme}://{TAR} is missing, though the index lists it"):
        stage(scheme, tmp_path / "cache")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bucket_that_refuses_is_one_line(bucket: Served, tmp_path: Path, scheme: str) -> None:
    bucket.refused = 403
    with pytest.raises(ShardError, match=rf"{scheme}://shards/sentence/train/index\.json could not be fetched in 3"):
        stage(scheme, tmp_path / "cache")


def test_missing_credentials_are_one_line(bucket: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ShardError, match="Unable to locate credentials"):
        stage("s3", tmp_path / "cache")


def test_a_server_that_is_gone_is_one_line(bucket: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ShardError, match=r"could not be fetched in 3 attempts .*Could not connect to the endpoint"):
        stage("s3", tmp_path / "cache")
