"""Plan the contents of each shard of a set from the raw files alone, before anything is written.

So a set has the same bytes for any number of threads, and a run recognises the finished tars of an interrupted one.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.region_checks import RegionRow
from msp_ds.data.format.set_layout import Split
from msp_ds.preparation.region_features.region_files import RegionFile
from msp_ds.preparation.texts.stage_texts import StageTexts
from msp_ds.preparation.writing.shard_writer import SetPlan


class PlannedImage(NamedTuple):
    """An image that a shard will hold."""

    file: int
    """Number of its region file."""
    row: RegionRow
    num_texts: int
    """1 where texts are made from the regions; such an image may turn out to have none."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One tar to write."""

    split: Split
    name: str
    images: Sequence[PlannedImage]

    @property
    def num_bytes(self) -> int:
        """Bytes of the rows to read."""
        return sum(image.row.length for image in self.images)

    @property
    def num_texts(self) -> int:
        """Texts of all images."""
        return sum(image.num_texts for image in self.images)


def plan_shards(images: Iterable[PlannedImage], plan: SetPlan) -> Iterator[ShardJob]:
    """Yield the tars of a set in the order of its images, each up to a number of images or bytes of their rows."""
    batch: list[PlannedImage] = []
    num_bytes = number = 0
    for image in images:
        batch.append(image)
        num_bytes += image.row.length
        if len(batch) >= plan.images_per_shard or num_bytes >= plan.bytes_per_shard:
            yield ShardJob(split=plan.split, name=layout.tar_name(number), images=batch)
            batch, num_bytes, number = [], 0, number + 1
    if batch:
        yield ShardJob(split=plan.split, name=layout.tar_name(number), images=batch)


def recipe_hash(job: ShardJob, *, plan: SetPlan, files: Sequence[RegionFile], texts: StageTexts) -> str:
    """Return a hash of everything that decides the bytes of a tar; features by their file's size and time of change."""
    stamps = {}
    for number in sorted({image.file for image in job.images}):
        found = files[number].path.stat()
        stamps[number] = [
            files[number].path.name,
            files[number].corpus,
            found.st_size,
            found.st_mtime_ns,
            files[number].feature_type,
        ]
    value = [
        (layout.FORMAT, layout.VERSION, plan.stage, plan.max_tokens, plan.on_error, plan.pieces.vocabulary.sha256),
        [hashlib.sha256(data).hexdigest() for data in (plan.objects_data, plan.attributes_data)],
        list(stamps.values()),
        [(list(stamps).index(image.file), image.row, texts.known(image.row.image_id)) for image in job.images],
    ]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
