"""Estimate the disk space and time of writing shards from a trial with a few images."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msp_ds.errors import InputError
from msp_ds.preparation.writing.shard_parts import ShardPart
from msp_ds.preparation.writing.shard_plan import ShardJob

_TRIAL_IMAGES = 16
_INDEX_BYTES = 100
"""Approximate bytes of an image in index.json."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated costs of the shards that are still to be written."""

    num_images: int
    num_texts: int
    num_bytes: int
    """Bytes on the disk."""
    seconds: float
    free_bytes: int
    """Free bytes of the disk before writing."""

    def describe(self) -> str:
        """Return one line: `123287 images, 616767 texts to write: 18.5 GB of 68.0 GB free, about 3 min`."""
        size = f"{size_text(self.num_bytes)} of {size_text(self.free_bytes)} free"
        return f"{self.num_images} images, {self.num_texts} texts to write: {size}, about {_time(self.seconds)}"


def estimate(
    jobs: Sequence[ShardJob], *, write: Callable[[ShardJob], ShardPart], folder: Path, num_threads: int
) -> Estimate:
    """Write the first images twice, the first time to warm up, delete them, and extrapolate.

    Raises: InputError for a fault in those images, and when the disk has not enough free space.
    """
    trial = dataclasses.replace(jobs[0], name="trial.tar", images=jobs[0].images[:_TRIAL_IMAGES])
    write(trial)
    start = time.perf_counter()
    part = write(trial)
    seconds = time.perf_counter() - start
    (folder / trial.name).unlink(missing_ok=True)
    written = sum(part.facts.entry.lengths) + sum(column.nbytes for column in part.pairs.values())
    bytes_ratio = (written + _INDEX_BYTES * part.num_images) / max(trial.num_bytes, 1)
    num_images, free = sum(len(job.images) for job in jobs), shutil.disk_usage(folder).free
    needed = int(bytes_ratio * sum(job.num_bytes for job in jobs))
    if needed > free:
        raise InputError(
            f"{folder.parent} would take {size_text(needed)} more, but its disk has {size_text(free)} free; "
            "free some or name another --out"
        )
    return Estimate(
        num_images=num_images,
        num_texts=sum(job.num_texts for job in jobs),
        num_bytes=needed,
        seconds=seconds * num_images / len(trial.images) / num_threads,
        free_bytes=free,
    )


def size_text(num_bytes: int) -> str:
    """Return `18.5 GB`."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
