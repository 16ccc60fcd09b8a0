"""Write the planned sets of a stage: tars that are not finished yet, tables and indexes, then all into place."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from msp_ds.data.format.faults import SkippedRow
from msp_ds.data.format.set_layout import Split
from msp_ds.data.progress import NoProgress, Progress
from msp_ds.errors import InputError
from msp_ds.preparation.region_features.region_files import RegionFile
from msp_ds.preparation.texts.stage_texts import StageTexts
from msp_ds.preparation.writing.overwrite_guard import remove_set, require_replaceable_sets, writing_folders
from msp_ds.preparation.writing.shard_estimate import estimate
from msp_ds.preparation.writing.shard_parts import ShardPart
from msp_ds.preparation.writing.shard_plan import ShardJob
from msp_ds.preparation.writing.shard_pool import ShardPool, ShardSource
from msp_ds.preparation.writing.shard_writer import (
    SetPlan,
    SetReport,
    commit_set,
    finish_set,
    num_finished,
    of_one_width,
    work_folder,
)
from msp_ds.storage.locks import lock_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Build:
    """The plan of a stage's sets, made from all small files before any features are read."""

    files: Sequence[RegionFile]
    texts: StageTexts
    plans: dict[Split, SetPlan]
    jobs: list[ShardJob]
    """All tars of all splits."""
    counts: dict[Split, dict[str, int]]
    """Images and texts that are left out so far."""
    skipped: tuple[SkippedRow, ...] = ()
    """Unusable rows of the sources that are known so far."""


def write_build(
    build: Build, *, out: Path, progress: Progress | None = None, num_threads: int = 1
) -> dict[Split, SetReport]:
    """Write planned sets as `out/<split>`; see `build_shards`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            for folder in writing_folders(out):
                locks.enter_context(lock_folder(folder))
            require_replaceable_sets(out)
            reports = _write(build, out=out, progress=progress or NoProgress(), num_threads=num_threads)
            for split in {"val", "test"} - reports.keys():
                remove_set(out / split)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); {_disk_hint(out)}") from None
    return reports


def _write(build: Build, *, out: Path, progress: Progress, num_threads: int) -> dict[Split, SetReport]:
    with ExitStack() as stack:
        folders = {split: stack.enter_context(work_folder(out / split)) for split in build.plans}
        source = ShardSource(files=build.files, texts=build.texts, plans=build.plans, folders=folders)
        parts = _write_tars(build.jobs, source, progress=progress, num_threads=num_threads)
        skipped = [row for split_parts in parts.values() for part in split_parts for row in part.facts.skipped]
        reports = {
            split: finish_set(
                folder,
                target=out / split,
                plan=build.plans[split],
                parts=parts[split],
                counts=build.counts[split],
                skipped=[*build.skipped, *skipped],
            )
            for split, folder in folders.items()
        }
        for split, report in reports.items():
            commit_set(folders[split], report)
    return reports


def _write_tars(
    jobs: list[ShardJob], source: ShardSource, *, progress: Progress, num_threads: int
) -> dict[Split, list[ShardPart]]:
    """Return the parts of all tars, written now or by an interrupted run."""
    finished = {place: part for place, job in enumerate(jobs) if (part := source.finished(job))}
    todo = [job for place, job in enumerate(jobs) if place not in finished]
    if finished:
        log.info("resuming an interrupted run: %d of %d tars are written", len(finished), len(jobs))
    parts: dict[Split, list[ShardPart]] = {split: [] for split in source.plans}
    with ShardPool(source, num_threads=num_threads, advance=progress.advance) as pool:
        if todo:
            folder = source.folders[todo[0].split]
            ahead = estimate(todo, write=pool.write, folder=folder, num_threads=num_threads)
            log.info("%s: %s", folder.parent, ahead.describe())
        progress.start("writing shards (bytes read)", sum(job.num_bytes for job in todo))
        written = pool.write_all(todo)
        in_order = (finished.get(place) or next(written) for place in range(len(jobs)))
        for job, part in zip(jobs, of_one_width(in_order), strict=True):
            parts[job.split].append(part)
    return parts


def _disk_hint(out: Path) -> str:
    """Return the fix for a full disk."""
    kept = sum(num_finished(folder) for folder in out.glob(".*.partial"))
    if kept:
        return f"free its disk and give the same command; finished tars that it keeps: {kept}"
    return "free its disk or name another --out"
