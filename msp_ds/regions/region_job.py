"""`msp-ds regions`: plan the parts of a folder, compute those that are not there yet, and write the index."""

import dataclasses
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from msp_ds.data.format.faults import OnError, RowAt, RowError
from msp_ds.data.format.image_ids import Corpus, canonical_image_id, corpus_of_names, own_image_id
from msp_ds.data.format.region_checks import has_only_finite
from msp_ds.data.progress import Progress
from msp_ds.errors import InputError, writing
from msp_ds.preparation.writing.shard_estimate import size_text
from msp_ds.regions.detector import BoxDetector, Detector, DetectorOptions
from msp_ds.regions.detectors.find import find_detector
from msp_ds.regions.pictures import LARGEST_PIXELS, list_pictures
from msp_ds.regions.region_check import RecordedRows, compare_regions
from msp_ds.regions.region_parts import INDEX, PlannedPicture, RegionFolder, RegionPlan, part_arrays
from msp_ds.regions.region_pool import BATCH, PictureOutcome, PictureRegions, RegionPool, one_thread
from msp_ds.storage.locks import lock_folder, share_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RegionsJob:
    """What a user asks of `msp-ds regions`."""

    photos: Sequence[str]
    """Folders, patterns or files."""
    detector: str
    options: DetectorOptions = field(default_factory=DetectorOptions)
    corpus: Corpus | None = None
    """By which the files' names are read; None to tell by the names."""
    boxes: str | None = None
    """Recorded regions whose boxes take the place of the detector's."""
    jobs: int | None = None
    """Processes; None for one a core, or one with a GPU."""
    part: tuple[int, int] = (0, 1)
    """Compute only each n-th part of the folder from the k-th on, as (k, n)."""
    on_error: OnError = "fail"
    largest_pixels: int = LARGEST_PIXELS


def write_regions(job: RegionsJob, out: Path, *, progress: Progress) -> list[str]:
    """Write the regions of all pictures into the folder `out`, or go on with it; return lines on what is there.

    Raises: InputError before any work for two pictures of one id and for a folder of other regions; with on_error
    `fail` at the first picture that cannot be opened.
    """
    first, step = job.part
    pictures = _planned(list_pictures(job.photos), job.corpus)
    with one_thread(), ExitStack() as held:
        detector, boxes = _open(job, pictures)
        held.enter_context(writing(out, fix="free its disk and give the same command"))
        held.enter_context(lock_folder(out) if step == 1 else share_folder(out))
        folder = RegionFolder(out, writer="" if step == 1 else f"-{first}")
        plan = folder.plan(_empty_plan(job, detector), pictures, is_alone=step == 1)
        todo = [number for number in range(first, len(plan.parts), step) if not folder.written(number)]
        tasks = [picture for number in todo for picture in plan.parts[number]]
        with closing(_outcomes(job, detector, tasks, boxes=boxes, progress=progress)) as outcomes:
            for number in todo:
                _write_part(folder, plan, number, job=job, outcomes=outcomes)
        parts = folder.whole_parts(plan)
        if len(parts) == len(plan.parts):
            folder.finish(plan, detector)
    images, left_out = sum(part.images for part in parts), sum(len(part.left_out) for part in parts)
    regions, size = sum(part.regions for part in parts), size_text(sum(part.bytes for part in parts))
    lines = [f"{images:,} images with {regions:,} regions in {out} ({size})"]
    if len(parts) < len(plan.parts):
        return [*lines, f"{len(parts)} of {len(plan.parts)} parts are whole; the last command writes {INDEX}"]
    return [*lines, f"{left_out:,} of {images + left_out:,} left out, listed in {INDEX}"] if left_out else lines


def check_regions(job: RegionsJob, rows: str, *, progress: Progress) -> dict[str, np.ndarray]:
    """Return image id -> how near its regions come to those in `rows`, for the pictures with a row there."""
    recorded = RecordedRows(rows)
    pictures = [one for one in _planned(list_pictures(job.photos), job.corpus) if one.image_id in recorded]
    if not pictures:
        raise InputError(f"{rows} has no row of any of the pictures; see --corpus for how their names are read")
    found = {}
    with one_thread():
        detector, boxes = _open(job, pictures)
        outcomes = _outcomes(job, detector, pictures, boxes=boxes, progress=progress)
        for picture, outcome in zip(pictures, outcomes, strict=True):
            if isinstance(outcome, RowError):
                raise outcome
            found[picture.image_id] = compare_regions(outcome.regions, recorded[picture.image_id])
    return found


def _planned(paths: Sequence[Path], corpus: Corpus | None) -> list[PlannedPicture]:
    """Return the pictures with their ids. Raises: InputError for two of one id."""
    corpus = corpus or corpus_of_names(path.stem for path in paths)
    found: dict[str, PlannedPicture] = {}
    for path in paths:
        is_own = corpus == "own"
        image_id = own_image_id(path) if is_own else canonical_image_id(path.stem, corpus=corpus, where=str(path))
        if image_id in found:
            raise InputError(f"{found[image_id].path} and {path} would both be image {image_id}; rename one of them")
        status = _status(path)
        found[image_id] = PlannedPicture(
            path=str(path), image_id=image_id, bytes=status.st_size, mtime_ns=status.st_mtime_ns
        )
    log.info("%s pictures, names read by --corpus %s: %s is %s", f"{len(found):,}", corpus, paths[0], next(iter(found)))
    return list(found.values())


def _status(path: Path) -> os.stat_result:
    """Of a picture, or of a link that leads nowhere. Raises: InputError for a picture that vanished."""
    try:
        return path.stat() if os.path.exists(path) else path.lstat()
    except OSError as error:
        raise InputError(f"{path} cannot be looked at ({error.strerror}); give the same command again") from None


def _open(job: RegionsJob, pictures: Iterable[PlannedPicture]) -> tuple[Detector, RecordedRows | None]:
    """Open the detector, and the boxes that a user gives. Raises: InputError for a picture without boxes."""
    if (job.options.selection == "given") != (job.boxes is not None):
        raise InputError("--selection given and --boxes ROWS need each other")
    detector = find_detector(job.detector, options=job.options)
    if job.boxes is None:
        return detector, None
    if not isinstance(detector, BoxDetector):
        raise InputError(f"{detector.record.describe()} takes no boxes; leave out --selection given")
    rows = RecordedRows(job.boxes)
    for picture in pictures:
        if picture.image_id not in rows:
            raise InputError(f"{job.boxes} has no boxes of {picture.path} ({picture.image_id}); name only those it has")
    return detector, rows


def _empty_plan(job: RegionsJob, detector: Detector) -> RegionPlan:
    """Return what decides the bytes beside the pictures."""
    versions = {name: version(name) for name in ("msp-ds", "torch", "pillow")}
    record = dataclasses.replace(detector.record, versions=detector.record.versions | versions)
    flags = {"--regions": job.options.regions, "--largest-pixels": job.largest_pixels, "--boxes": job.boxes}
    return RegionPlan(detector=record, options={flag: str(value) for flag, value in flags.items()})


def _outcomes(
    job: RegionsJob,
    detector: Detector,
    pictures: Sequence[PlannedPicture],
    *,
    boxes: RecordedRows | None,
    progress: Progress,
) -> Generator[PictureOutcome]:
    """Yield the outcome of each picture."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = job.jobs or (cores if job.options.device == "cpu" else 1)
    jobs = max(1, min(jobs, -(-len(pictures) // BATCH)))
    pool = RegionPool(detector=job.detector, options=job.options, max_pixels=job.largest_pixels)
    tasks = ((Path(one.path), boxes[one.image_id].boxes if boxes else None) for one in pictures)
    outcomes = pool.outcomes(detector, tasks) if jobs == 1 else pool.outcomes_of_processes(tasks, jobs)
    progress.start("regions", len(pictures))
    for outcome in outcomes:
        progress.advance(1)
        yield outcome


def _write_part(
    folder: RegionFolder, plan: RegionPlan, number: int, *, job: RegionsJob, outcomes: Iterator[PictureOutcome]
) -> None:
    """Write a part of the next outcomes. Raises: InputError for a fault that is not to be skipped."""
    found, left_out = dict[str, PictureRegions](), dict[str, str]()
    for picture, outcome in zip(plan.parts[number], outcomes, strict=False):
        if isinstance(outcome, PictureRegions) and not has_only_finite(outcome.regions.features):
            outcome = RowError(RowAt(Path(picture.path)), "the detector's features are not finite in float16")
        if isinstance(outcome, RowError):
            if job.on_error == "fail":
                raise InputError(f"{outcome}; leave out and list such pictures with --on-error skip")
            left_out[picture.path] = outcome.reason
        elif not len(outcome.regions.boxes):
            left_out[picture.path] = "the detector finds no region in it"
        else:
            found[picture.image_id] = outcome
    arrays = part_arrays(found, record=plan.detector, num_regions=job.options.regions)
    folder.write_part(number, arrays, left_out=left_out)
