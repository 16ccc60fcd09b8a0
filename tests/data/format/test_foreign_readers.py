"""Readers of other projects open our tars and see the same values."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import webdataset
from raw_files import RawFolder, Row

from msp_ds.preparation.writing.shard_building import build_shards


@pytest.fixture
def tar(raw: RawFolder) -> Path:
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    return raw.path / "shards" / "sentence" / "train" / "000000.tar"


def assert_is_the_second_image(record: dict[str, Any]) -> None:
    assert record["image_id"] == "coco-2"
    assert record["texts"] == ["A red dog.", "the horse on a ball"]
    features = np.frombuffer(record["features"], "<f2").reshape(record["num_regions"], record["feature_width"])
    np.testing.assert_array_equal(features, Row(2).features.astype(np.float16))
    np.testing.assert_array_equal(np.frombuffer(record["boxes"], "<f4").reshape(-1, 4), Row(2).boxes)
    assert np.frombuffer(record["object_ids"], "<i2").tolist() == [0, 2, -1]


def test_tar_lists_and_unpacks_them(tar: Path, tmp_path: Path) -> None:
    listed = subprocess.run(["tar", "tf", str(tar)], capture_output=True, text=True, check=True).stdout.split()
    assert listed == [f"coco-{number}.mp" for number in range(1, 7)]
    subprocess.run(["tar", "xf", str(tar), "-C", str(tmp_path)], check=True)
    assert_is_the_second_image(msgpack.unpackb((tmp_path / "coco-2.mp").read_bytes()))


def test_webdataset_iterates_them(tar: Path) -> None:
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"coco-{number}" for number in range(1, 7)]
    assert_is_the_second_image(msgpack.unpackb(samples[1]["mp"]))


def test_hugging_face_datasets_streams_them(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    images = datasets.load_dataset("webdataset", data_files=str(tar), split="train", streaming=True)
    assert_is_the_second_image(list(images)[1]["mp"])


def test_webdataset_streams_them_in_approximate_epochs(tar: Path) -> None:
    """The mode that docs/own-data.md describes: as many images as asked for, not each of them once."""
    stream = webdataset.WebDataset(str(tar), resampled=True, shardshuffle=False).shuffle(4)
    records = list(stream.map(lambda sample: msgpack.unpackb(sample["mp"])).with_epoch(20))
    assert len(records) == 20
    for record in records:
        features = np.frombuffer(record["features"], "<f2").reshape(record["num_regions"], record["feature_width"])
        number = int(record["image_id"].removeprefix("coco-"))
        np.testing.assert_array_equal(features, Row(number).features.astype(np.float16))
    counts = [[record["image_id"] for record in records].count(f"coco-{number}") for number in range(1, 7)]
    assert max(counts) > min(counts), "20 draws of 6 images cannot be equal, and an epoch is not exact"
