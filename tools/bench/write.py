"""Measures how fast raw features become shards: LXMERT's TSV in, base64 decoding, checks, checksums and fsync included.

    python tools/bench/write.py --images 10000 --folder bench --jobs 1 2

makes a TSV of made-up images (395 KB each) in a new folder, writes stage sentence from it once for each number of jobs,
each time in a fresh process, prints a table and leaves bench/bench_write.json. 10,000 images take 6 GB of disk and a
minute. With --keep the TSV stays and is used again; with --cold it is dropped from the page cache before each run.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.region_features.region_files import list_region_files
from msp_ds.preparation.writing.overwrite_guard import remove_set
from msp_ds.preparation.writing.shard_building import build_shards
from msp_ds.terminal import Table, Terminal, run_tool
from tools.bench.common.cost import Cost, drop_from_cache, measured
from tools.bench.common.synthetic_coco import write_small_files, write_tsv
from tools.command_line import at_least, number_table, tool_parser

COLUMNS = {
    "jobs": "",
    "images/s": "≥ 400",
    "of shards alone": "",
    "ids, GB/s": "",
    "CPU µs/image": "",
    "peak MB": "≤ 500",
    "disk ratio": "≤ 0.40",
}
"""Column -> its target."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One build."""

    jobs: int
    num_images: int
    write_seconds: float
    """For the shards and tables alone; the rest goes to image ids, texts and imports that come late."""
    id_seconds: float
    """For the image ids, from the page cache."""
    tsv_bytes: int
    set_bytes: int
    cost: Cost

    def row(self) -> list[str]:
        """A line of the table."""
        return [
            str(self.jobs),
            f"{self.num_images / self.cost.seconds:.0f}",
            f"{self.num_images / self.write_seconds:.0f}",
            f"{self.tsv_bytes / self.id_seconds / 1e9:.1f}",
            f"{self.cost.cpu_seconds / self.num_images * 1e6:.0f}",
            f"{self.cost.peak_bytes / 1e6:.0f}",
            f"{self.set_bytes / self.tsv_bytes:.3f}",
        ]


class Phases:
    """A progress display that records when each phase began."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def start(self, label: str, total: int | None) -> None:
        """Record the start of a phase."""
        self.starts.append(time.perf_counter())

    def advance(self, amount: int) -> None:
        """Do nothing."""


def build(recipe: Recipe, out: Path, jobs: int) -> tuple[int, float]:
    """One build: its images, and the seconds that shards and tables took."""
    phases = Phases()
    (report,) = build_shards(recipe, stage="sentence", out=out, progress=phases, num_threads=jobs).values()
    return report.num_images, time.perf_counter() - phases.starts[-1]


def find_ids(recipe: Recipe) -> int:
    """Number of images in the region files."""
    return sum(1 for file in list_region_files(recipe.regions) for _ in file.rows())


def result(recipe: Recipe, folder: Path, jobs: int, *, cold: bool) -> Result:
    """Time, memory and disk space of one build."""
    tsv, out = Path(recipe.regions[0]), folder / "shards"
    if cold:
        drop_from_cache(tsv)
    (num_images, write_seconds), cost = measured(build, recipe, out, jobs)
    set_bytes = sum(path.stat().st_size for path in (out / "sentence" / "train").iterdir())
    remove_set(out / "sentence" / "train")
    _, ids = measured(find_ids, recipe)
    return Result(
        jobs=jobs,
        num_images=num_images,
        write_seconds=write_seconds,
        id_seconds=ids.seconds,
        tsv_bytes=tsv.stat().st_size,
        set_bytes=set_bytes,
        cost=cost,
    )


def table(results: list[Result]) -> Table:
    """All runs, and below them their targets."""
    title = f"{results[0].num_images} images, {results[0].tsv_bytes / 1e9:.1f} GB of TSV, stage sentence"
    shown = number_table(title, COLUMNS, (line.row() for line in results))
    shown.add_section()
    shown.add_row(*COLUMNS.values())
    return shown


def main() -> None:
    """Read the flags, measure and print the table."""
    parser = tool_parser(__doc__)
    parser.add_argument("--images", type=at_least(1), default=10_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--jobs", type=at_least(1), nargs="+", default=[1, 2])
    parser.add_argument("--cold", action="store_true", help="read the TSV from the disk")
    parser.add_argument("--keep", action="store_true", help="use a TSV that is there, and leave it")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    recipe = write_small_files(flags.folder, flags.images)
    tsv = Path(recipe.regions[0])
    if not (flags.keep and tsv.is_file()):
        write_tsv(tsv, flags.images)
    results = [result(recipe, flags.folder, jobs, cold=flags.cold) for jobs in flags.jobs]
    if not flags.keep:
        tsv.unlink()
    lines = json.dumps([dataclasses.asdict(line) for line in results], indent=2)
    (flags.folder / "bench_write.json").write_text(lines + "\n")
    Terminal().print(table(results))


if __name__ == "__main__":
    run_tool(main)
