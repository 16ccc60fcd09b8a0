"""Verify shard sets on the disk byte by byte; every fault is reported, not only the first."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.index_checks import check_entry
from msp_ds.data.format.set_layout import SetIndex
from msp_ds.data.format.shards import ShardSet, assemble_set, file_faults, read_index
from msp_ds.data.progress import NoProgress, Progress
from msp_ds.errors import InputError, ShardError
from msp_ds.preparation.verifying.tar_scan import PairRows, TarPlan, scan_tar
from msp_ds.storage.small_files import is_plain_name


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The result of the verification of one set."""

    path: Path
    is_quick: bool
    """Whether the contents of the tars were not read."""
    num_images: int
    num_tars: int
    num_bytes: int
    """Bytes of the tars."""
    seconds: float
    """Duration."""
    faults: tuple[str, ...]
    """One line each: file, image, byte, what is wrong."""
    fix: str
    """The command that writes the set again."""


def find_sets(paths: Sequence[Path]) -> list[Path]:
    """Return all sets below the paths; a path without any is returned itself."""
    return list(dict.fromkeys(found for path in paths for found in layout.sets_below(path) or [path]))


def verify_sets(
    paths: Sequence[Path],
    *,
    tell: Callable[[VerifyReport], None],
    quick: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> bool:
    """Verify all sets below `paths` and pass each report to `tell`; return whether all are valid.

    Raises: ShardError at the end, naming the sets that cannot be opened.
    """
    unreadable: list[str] = []
    all_valid = True
    for path in find_sets(paths):
        try:
            report = verify_set(path, quick=quick, jobs=jobs, progress=progress)
        except ShardError as error:
            unreadable.append(str(error))
        else:
            all_valid = all_valid and not report.faults
            tell(report)
    if unreadable:
        raise ShardError("; and ".join(unreadable))
    return all_valid


def verify_set(
    path: Path, *, quick: bool = False, jobs: int | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Compare a set with its index: sizes, tables and the small files, and, unless `quick`, every byte of the tars.

    For each image the tar header, crc32, schema, image id, shapes, finite features, labels and texts are checked.
    `jobs` tars are read at once, by default one a core; hashing releases the interpreter lock.

    Raises: ShardError when there is no readable index.
    """
    progress, start = progress or NoProgress(), time.perf_counter()
    index, index_sha256 = read_index(path)
    faults = [str(fault) for fault in file_faults(index, path)]
    shards: ShardSet | None = None
    try:
        shards = assemble_set(index, path=path, index_sha256=index_sha256)
    except InputError as error:
        # A file that differs from its hash is reported already, and so not again as unreadable.
        damaged = [str(path / name) for name in index.files if any(str(path / name) in fault for fault in faults)]
        faults += [] if str(error).startswith(tuple(damaged)) else [str(error)]
    num_bytes = sum(shard.bytes for shard in index.shards)
    if not quick:
        progress.start(f"{path} (bytes)", num_bytes)
        faults += _tar_faults(index, path, shards, jobs=jobs or os.cpu_count() or 1, progress=progress)
    return VerifyReport(
        path=path,
        is_quick=quick,
        seconds=time.perf_counter() - start,
        num_images=index.num_images,
        num_tars=len(index.shards),
        num_bytes=num_bytes,
        faults=tuple(dict.fromkeys(faults)),
        fix=layout.fix_command(index.stage, index.extractor),
    )


def _tar_faults(
    index: SetIndex, path: Path, shards: ShardSet | None, *, jobs: int, progress: Progress
) -> Iterator[str]:
    """Yield the faults of all tars in order."""
    lock = Lock()

    def advance(amount: int) -> None:
        with lock:
            progress.advance(amount)

    plans, refused = _tar_plans(index, path, shards)
    yield from refused
    with ThreadPoolExecutor(jobs) as pool:
        for faults in pool.map(lambda plan: scan_tar(plan, advance=advance), plans):
            yield from faults


def _tar_plans(index: SetIndex, path: Path, shards: ShardSet | None) -> tuple[list[TarPlan], list[str]]:
    """Return plans for the tars whose index entries are valid, and the faults of the other entries."""
    pair_rows: PairRows | None = None
    if shards is not None:
        pieces = shards.word_pieces()
        pair_rows = PairRows.of(shards.pairs, num_images=index.num_images, pieces=pieces, max_tokens=index.max_tokens)
    plans: list[TarPlan] = []
    refused: list[str] = []
    first_row = 0
    for entry in index.shards:
        try:
            check_entry(entry, index, path)
        except (ShardError, OverflowError) as error:
            refused.append(str(error))
        else:
            # Missing tars and names that are not plain are reported with the other files.
            if is_plain_name(entry.name) and (path / entry.name).is_file():
                plans.append(
                    TarPlan(path=path / entry.name, entry=entry, index=index, first_row=first_row, pair_rows=pair_rows)
                )
        first_row += len(entry.keys)
    return plans, refused
