"""Which image goes into which tar, and what the hash of a tar's making knows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_files import RawFolder, vocabulary

from msp_ds.data.format.region_checks import RegionRow
from msp_ds.data.format.text import WordPieces
from msp_ds.preparation.region_features.region_tsv import TsvRegions
from msp_ds.preparation.texts.stage_texts import StageTexts
from msp_ds.preparation.writing.shard_plan import PlannedImage, ShardJob, plan_shards, recipe_hash
from msp_ds.preparation.writing.shard_writer import SetPlan

PLAN = SetPlan(
    stage="sentence",
    split="train",
    pieces=WordPieces(vocabulary()),
    objects_data=b"dog",
    attributes_data=b"red",
    max_tokens=20,
    images_per_shard=3,
    bytes_per_shard=100,
)


def image(number: int, *, length: int = 10) -> PlannedImage:
    return PlannedImage(0, RegionRow(f"coco-{number}", number, 10 * number, length), 2)


def test_tars_are_full_by_images_or_by_bytes() -> None:
    lengths = [10, 10, 10, 60, 40, 10, 250, 10]
    jobs = list(plan_shards([image(number, length=length) for number, length in enumerate(lengths)], PLAN))
    assert [[planned.row.length for planned in job.images] for job in jobs] == [[10, 10, 10], [60, 40], [10, 250], [10]]
    assert [job.name for job in jobs] == ["000000.tar", "000001.tar", "000002.tar", "000003.tar"]
    assert [job.num_bytes for job in jobs] == [30, 100, 260, 10]


def test_a_plan_of_nothing_has_no_tar() -> None:
    assert list(plan_shards([], PLAN)) == []


def test_a_job_counts_its_texts() -> None:
    assert ShardJob(split="train", name="000000.tar", images=[image(1), image(2)]).num_texts == 4


def stage_texts(*texts: str) -> StageTexts:
    """One text for each of the images 1, 2 ..."""
    return StageTexts(texts_of=lambda record: [], by_image={f"coco-{n}": [text] for n, text in enumerate(texts, 1)})


JOB = ShardJob(split="train", name="000000.tar", images=[image(1), image(2)])
TEXTS = stage_texts("a dog", "a hat")
CHANGES: dict[str, tuple[SetPlan, ShardJob, StageTexts]] = {
    "text": (PLAN, JOB, stage_texts("a dog", "the hat")),
    "texts of the regions": (PLAN, JOB, StageTexts(texts_of=lambda record: [])),
    "order": (PLAN, dataclasses.replace(JOB, images=JOB.images[::-1]), TEXTS),
    "row": (PLAN, dataclasses.replace(JOB, images=[image(1), image(2, length=11)]), TEXTS),
    "stage": (dataclasses.replace(PLAN, stage="phrase"), JOB, TEXTS),
    "length of texts": (dataclasses.replace(PLAN, max_tokens=19), JOB, TEXTS),
    "labels": (dataclasses.replace(PLAN, objects_data=b"dog\ncat"), JOB, TEXTS),
}


@pytest.fixture
def regions(raw: RawFolder) -> TsvRegions:
    return TsvRegions(raw.path / "regions.tsv", "coco")


def hash_of_job(*files: TsvRegions) -> str:
    return recipe_hash(JOB, plan=PLAN, files=files, texts=TEXTS)


@pytest.mark.parametrize(("plan", "job", "texts"), CHANGES.values(), ids=CHANGES)
def test_the_hash_knows_what_a_tar_is_made_from(
    regions: TsvRegions, plan: SetPlan, job: ShardJob, texts: StageTexts
) -> None:
    assert recipe_hash(job, plan=plan, files=[regions], texts=texts) != hash_of_job(regions)


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 1))


def _append(path: Path) -> None:
    stamp = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"\n")
    os.utime(path, ns=(stamp, stamp))


@pytest.mark.parametrize("change", [_touch, _append])
def test_the_hash_knows_size_and_time_of_the_features(regions: TsvRegions, change: Callable[[Path], None]) -> None:
    before = hash_of_job(regions)
    assert hash_of_job(regions) == before
    change(regions.path)
    assert hash_of_job(regions) != before


def test_the_hash_does_not_know_the_other_files_of_a_recipe(regions: TsvRegions, tmp_path: Path) -> None:
    other = TsvRegions(tmp_path / "nowhere.tsv", "coco")
    assert hash_of_job(regions, other) == hash_of_job(regions)
