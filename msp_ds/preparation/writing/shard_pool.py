"""Write the shards of a plan with several threads.

Threads, not processes: reading, decompressing, casting, checksums and writing release the interpreter lock, while each
process would need 230 MB for its imports and might outlive a killed parent. Of an image's 0.6 ms, 0.3 hold the lock,
half of them for the word pieces of five captions; that limits the gain of more threads.
"""

from __future__ import annotations

import copy
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from msp_ds.data.format.faults import Faults
from msp_ds.data.format.region_checks import LabelCounts
from msp_ds.data.format.set_layout import Split
from msp_ds.preparation.region_features.region_files import RegionFile, read_or_skip
from msp_ds.preparation.texts.stage_texts import StageTexts
from msp_ds.preparation.writing.shard_parts import ShardPart, ShardWriter, load_part, save_part
from msp_ds.preparation.writing.shard_plan import PlannedImage, ShardJob, recipe_hash
from msp_ds.preparation.writing.shard_writer import SetPlan

_MOST_JOBS = 4


def default_jobs() -> int:
    """Return the number of cores of this process, at most four: beyond that the disk is the bottleneck."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, _MOST_JOBS)


class _Abandoned(Exception):
    """The pool is stopping, so that the current shard is not needed."""


class _OwnFiles(threading.local):
    """Copies of the region files for each thread, which do not share open files."""

    def __init__(self, files: Sequence[RegionFile]) -> None:
        self._files = files
        self._own: dict[int, RegionFile] = {}

    def keep_only(self, numbers: set[int]) -> None:
        """Drop all other files."""
        self._own = {number: file for number, file in self._own.items() if number in numbers}

    def __getitem__(self, number: int) -> RegionFile:
        """Return this thread's copy of a file."""
        if number not in self._own:
            self._own[number] = copy.copy(self._files[number])
        return self._own[number]


@dataclass(frozen=True, kw_only=True)
class ShardSource:
    """Sources and targets of all shards of a run."""

    files: Sequence[RegionFile]
    texts: StageTexts
    plans: Mapping[Split, SetPlan]
    folders: Mapping[Split, Path]
    """The work folder of each split."""

    def tar_of(self, job: ShardJob) -> Path:
        """Return the path of a job's tar."""
        return self.folders[job.split] / job.name

    def hash_of(self, job: ShardJob) -> str:
        """Return the recipe hash of a job's tar."""
        return recipe_hash(job, plan=self.plans[job.split], files=self.files, texts=self.texts)

    def finished(self, job: ShardJob) -> ShardPart | None:
        """Return the part that an earlier run wrote for this job, if any."""
        return load_part(self.tar_of(job), recipe_hash=self.hash_of(job))


class ShardPool:
    """Threads that write shards, as a context; when it is left early, they stop at their next image."""

    def __init__(self, source: ShardSource, *, num_threads: int, advance: Callable[[int], None]) -> None:
        """advance: called from any thread with the number of bytes read."""
        plan = next(iter(source.plans.values()))
        self._source = source
        self._labels = LabelCounts(objects=len(plan.objects), attributes=len(plan.attributes))
        self._files = _OwnFiles(source.files)
        self._advance = advance
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="shard")

    def __enter__(self) -> ShardPool:
        # Otherwise each thread would spread its casts over all cores.
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)
        torch.set_num_threads(self._torch_threads)

    def write_all(self, jobs: Sequence[ShardJob]) -> Iterator[ShardPart]:
        """Yield the parts of all jobs in order, each saved after its tar is on the disk.

        Raises: InputError, of several faults the first in the order of the jobs; OSError.
        """
        for future in [self._threads.submit(self._write_and_save, job) for job in jobs]:
            yield future.result()

    def write(self, job: ShardJob, *, advance: Callable[[int], None] = lambda num_bytes: None) -> ShardPart:
        """Write one tar in the calling thread."""
        plan, counts = self._source.plans[job.split], Counter(clipped_boxes=0, images_without_text=0)
        faults = Faults(plan.on_error)
        self._files.keep_only({image.file for image in job.images})
        with ShardWriter(self._source.tar_of(job), pieces=plan.pieces, max_tokens=plan.max_tokens) as writer:
            for image in job.images:
                if self._stop.is_set():
                    raise _Abandoned
                self._add(image, writer, counts, faults)
                advance(image.row.length)
            return writer.finish(dict(counts), skipped=faults.skipped)

    def _write_and_save(self, job: ShardJob) -> ShardPart:
        part = self.write(job, advance=self._advance)
        return save_part(part, tar=self._source.tar_of(job), recipe_hash=self._source.hash_of(job))

    def _add(self, image: PlannedImage, writer: ShardWriter, counts: Counter[str], faults: Faults) -> None:
        reading = read_or_skip(self._files[image.file], image.row, labels=self._labels, faults=faults)
        if reading is None:
            return
        record, num_clipped = reading
        texts, needed_beside = self._source.texts.texts_of(record), self._source.texts.needed_beside
        counts.update(
            clipped_boxes=num_clipped, images_without_text=int(not texts and record.image_id not in needed_beside)
        )
        if texts or record.image_id in needed_beside:
            writer.add(record, texts)
