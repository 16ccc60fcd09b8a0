"""Measures how fast raw features become shards: LXMERT's TSV in, base64 decoding, checks, checksums and fsync included.

    python tools/bench_write.py --images 10000 --folder bench --jobs 1 2

makes a TSV of made-up images (395 KB each) in a new folder, writes stage sentence from it once for each number of jobs,
each time in a fresh process, prints a table and leaves bench/bench_write.json. 10,000 images take 6 GB of disk and a
minute. With --keep the TSV stays and is used again; with --cold it is dropped from the page cache before each run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from msp_ds.data.recipe import Recipe
from msp_ds.data.shard_building import build_shards
from tools.synthetic_coco import write_small_files, write_tsv

TARGETS = {"images/s": "≥ 400", "peak MB": "≤ 500", "disk share": "≤ 0.40"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One build."""

    jobs: int
    num_images: int
    seconds: float
    """From the first look at the files to the renamed set; imports left out."""
    scan_seconds: float
    """Of these, for the image ids."""
    write_seconds: float
    """Of these, for the shards and tables."""
    cpu_seconds: float
    peak_bytes: int
    """Most memory that the process held, imports included."""
    tsv_bytes: int
    set_bytes: int

    def row(self) -> list[str]:
        """A line of the table."""
        return [
            str(self.jobs),
            f"{self.num_images / self.seconds:.0f}",
            f"{self.num_images / self.write_seconds:.0f}",
            f"{self.tsv_bytes / self.scan_seconds / 1e9:.1f}",
            f"{self.cpu_seconds / self.num_images * 1e6:.0f}",
            f"{self.peak_bytes / 1e6:.0f}",
            f"{self.set_bytes / self.tsv_bytes:.3f}",
        ]


class Phases:
    """When each piece of work began."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def start(self, label: str, total: int | None) -> None:
        """A new piece of work."""
        self.starts.append(time.perf_counter())

    def advance(self, amount: int) -> None:
        """Nothing."""


def peak_memory() -> int:
    """Bytes that this process held at most; getrusage would count what it was before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def build(recipe: Recipe, out: Path, jobs: int, answer: Any) -> None:
    """One build in a process of its own; what it took goes into a queue."""
    phases, cpu, began = Phases(), time.process_time(), time.perf_counter()
    (report,) = build_shards(recipe, stage="sentence", out=out, progress=phases, num_threads=jobs).values()
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    folder = out / "sentence" / "train"
    answer.put(
        Measured(
            jobs=jobs,
            num_images=report.num_images,
            seconds=ended - began,
            # Texts are read between the ids and the shards; they count in the whole alone.
            scan_seconds=scan_seconds(recipe),
            write_seconds=ended - phases.starts[-1],
            cpu_seconds=cpu,
            peak_bytes=peak_memory(),
            tsv_bytes=sum(Path(path).stat().st_size for path in recipe.regions),
            set_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        )
    )


def scan_seconds(recipe: Recipe) -> float:
    """How long the image ids take alone, from the page cache."""
    from msp_ds.data.sources.region_files import list_region_files

    began = time.perf_counter()
    for file in list_region_files(recipe.regions):
        for _ in file.rows():
            pass
    return time.perf_counter() - began


def drop_from_cache(path: Path) -> None:
    """Let the next reader fetch a file from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(recipe: Recipe, folder: Path, jobs: int, *, cold: bool) -> Measured:
    """One build in a fresh process."""
    if cold:
        drop_from_cache(Path(recipe.regions[0]))
    processes = multiprocessing.get_context("spawn")
    answer = processes.Queue()
    process = processes.Process(target=build, args=(recipe, folder / "shards", jobs, answer))
    process.start()
    measured: Measured = answer.get()
    process.join()
    shutil.rmtree(folder / "shards")
    return measured


def table(results: list[Measured]) -> Table:
    """All runs side by side, and below them what they should reach."""
    columns = ["jobs", "images/s", "of shards alone", "scan GB/s", "CPU µs/image", "peak MB", "disk share"]
    shown = Table(title=f"{results[0].num_images} images, {results[0].tsv_bytes / 1e9:.1f} GB of TSV, stage sentence")
    for name in columns:
        shown.add_column(name, justify="right")
    for result in results:
        shown.add_row(*result.row())
    shown.add_section()
    shown.add_row("goal", *(TARGETS.get(name, "") for name in columns[1:]))
    return shown


def main() -> None:
    """Flags in, table out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--keep", action="store_true")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    recipe = write_small_files(flags.folder, flags.images)
    tsv = Path(recipe.regions[0])
    if not (flags.keep and tsv.is_file()):
        write_tsv(tsv, flags.images)
    results = [measure(recipe, flags.folder, jobs, cold=flags.cold) for jobs in flags.jobs]
    if not flags.keep:
        tsv.unlink()
    (flags.folder / "bench_write.json").write_text(
        json.dumps([dataclasses.asdict(result) for result in results], indent=2) + "\n"
    )
    Console().print(table(results))


if __name__ == "__main__":
    main()
