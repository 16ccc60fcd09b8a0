"""What the writer says before it starts."""

from __future__ import annotations

import logging
import re
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from raw_files import RawFolder

from msp_ds.data.format.region_checks import RegionRow
from msp_ds.data.format.set_layout import ShardEntry
from msp_ds.errors import InputError
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.preparation.writing.shard_estimate import Estimate, estimate
from msp_ds.preparation.writing.shard_parts import PartFacts, ShardPart
from msp_ds.preparation.writing.shard_plan import PlannedImage, ShardJob

Usage = namedtuple("Usage", "total used free")


def part_of(job: ShardJob) -> ShardPart:
    """As if each image took 400 bytes of the tar and 100 of the pair table."""
    count = len(job.images)
    nothing = (0,) * count
    entry = ShardEntry(
        name=job.name,
        bytes=10_240,
        sha256="",
        keys=("",) * count,
        offsets=nothing,
        lengths=(400,) * count,
        crc32=nothing,
        region_counts=nothing,
    )
    facts = PartFacts(num_truncated=0, num_regions=0, counts={}, entry=entry)
    return ShardPart(facts=facts, pairs={"keys": np.zeros(100 * count, np.int8)}, feature_sum=np.zeros(1))


def job_of(count: int, *, length: int) -> ShardJob:
    images = [PlannedImage(0, RegionRow(f"coco-{number}", number, 0, length), 2) for number in range(count)]
    return ShardJob(split="train", name="000000.tar", images=images)


def test_the_need_is_reckoned_from_a_trial_of_sixteen(tmp_path: Path) -> None:
    tried: list[tuple[str, int]] = []

    def write(job: ShardJob) -> ShardPart:
        tried.append((job.name, len(job.images)))
        return part_of(job)

    ahead = estimate([job_of(20, length=1000), job_of(10, length=2000)], write=write, folder=tmp_path, num_threads=2)
    assert tried == [("trial.tar", 16)] * 2
    # 400 + 100 + 100 for the index make 600 bytes of a row of 1,000; 40,000 bytes of rows are to be read.
    assert (ahead.num_images, ahead.num_texts, ahead.num_bytes) == (30, 60, 24_000)


@pytest.mark.parametrize(("free", "enough"), [(24_000, True), (23_900, False)])
def test_a_disk_that_is_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, enough: bool
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9 - free, free))
    jobs = [job_of(40, length=1000)]
    if enough:
        assert estimate(jobs, write=part_of, folder=tmp_path, num_threads=1).free_bytes == free
    else:
        line = r"would take 24 kB more, but its disk has 24 kB free; free some or name"
        with pytest.raises(InputError, match=line):
            estimate(jobs, write=part_of, folder=tmp_path, num_threads=1)


@pytest.mark.parametrize(
    ("seconds", "time"), [(0.2, "0 s"), (89, "89 s"), (180, "3 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_an_estimate_is_one_line(seconds: float, time: str) -> None:
    ahead = Estimate(
        num_images=123_287, num_texts=616_767, num_bytes=18_520_000_000, seconds=seconds, free_bytes=67_980_000_000
    )
    line = f"123287 images, 616767 texts to write: 18.5 GB of 68.0 GB free, about {time}"
    assert ahead.describe() == line


def test_the_estimate_is_logged_before_writing(raw: RawFolder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "msp_ds")
    build_shards(raw.recipe, stage="sentence", out=raw.path / "shards")
    (line,) = caplog.messages
    assert re.search(r"shards/sentence: 6 images, 12 texts to write: \d kB of \d+\.\d GB free, about 0 s$", line)
