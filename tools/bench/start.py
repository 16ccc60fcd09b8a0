"""Measures the start of a run on a set of COCO's full size: from nothing to the first batch at 90 % of an epoch.

    python tools/bench/start.py --folder bench

makes 123,287 images with 616,767 captions and 100 hard negatives an image (0.4 GB of disk and a minute; the features
are tiny, for a start reads those of one batch only), then opens the set and reads that batch in a fresh process, five
times, and prints the medians. It should take 0.2 s on idle cores.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.format.shards import open_set
from msp_ds.data.format.text import WordPieces
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import Reader
from msp_ds.preparation.hard_negatives.hard_negative_list import read_hard_negatives
from msp_ds.preparation.writing.shard_writer import SetPlan, write_set
from msp_ds.records import RegionRecord
from msp_ds.terminal import Table, Terminal, run_tool
from tools.bench.common import synthetic_coco
from tools.bench.common.cost import measured
from tools.command_line import at_least, number_table, tool_parser

BATCH_SIZE, FEATURE_WIDTH = 256, 16
FEWEST_IMAGES = -(-BATCH_SIZE // 5)
"""With five captions each they fill a batch."""
AT = 0.9
"""Fraction of the epoch at which the start is timed."""
PARTS = ("open the set", "reader", "order", "first batch")

Times = dict[str, tuple[float, float]]
"""Part -> seconds by the clock, seconds of CPU."""


def make_set(folder: Path, num_images: int) -> Path:
    """Write a set of `num_images` images of one region unless it exists; return its folder."""
    target = folder / f"start-{num_images}" / "sentence" / "train"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    recipe = synthetic_coco.write_small_files(target.parent, 1)
    synthetic_coco.write_hard_negatives(target.parent / "hard_negatives.npz", num_images)
    plan = SetPlan(
        stage="sentence",
        split="train",
        pieces=WordPieces(read_vocabulary(Path(recipe.vocab))),
        objects_data=Path(recipe.objects_vocab).read_bytes(),
        attributes_data=Path(recipe.attributes_vocab).read_bytes(),
        max_tokens=20,
        hard_negatives=read_hard_negatives(target.parent / "hard_negatives.npz"),
    )
    write_set(target, plan=plan, examples=_examples(num_images), counts={})
    return target


def _examples(num_images: int) -> Iterator[tuple[RegionRecord, list[str]]]:
    rng = np.random.default_rng(0)
    for number in range(num_images):
        features = np.full((1, FEATURE_WIDTH), number % 1000, np.float16)
        captions = [synthetic_coco.caption(number, ordinal) for ordinal in range(synthetic_coco.num_captions(number))]
        yield synthetic_coco.random_record(number, features, rng), captions


def start(path: Path) -> Times:
    """Open a set and read the first batch at 90 % of an epoch."""
    gc.collect()  # what the imports left, which would be charged to whoever makes the next objects
    ends = [(time.perf_counter(), time.process_time())]

    def passed() -> None:
        ends.append((time.perf_counter(), time.process_time()))

    shards = open_set(path)
    passed()
    reader = Reader(shards)
    passed()
    order = Order([reader.keys], seed=0, batch_size=BATCH_SIZE)
    pairs = order.batch(int(AT * order.batches_per_epoch)).pairs
    passed()
    matched, random_regions = torch.ones(len(pairs), dtype=torch.bool), torch.empty(len(pairs), 0)
    reader.read(pairs, images=reader.images[pairs], matched=matched, random_regions=random_regions)
    passed()
    steps = zip(PARTS, ends, ends[1:], strict=False)
    return {part: (after[0] - before[0], after[1] - before[1]) for part, before, after in steps}


def median_times(path: Path, repeat: int) -> Times:
    """Medians of the parts and of their sum over `repeat` fresh processes."""
    runs = [measured(start, path)[0] for _ in range(repeat)]
    for run in runs:
        run["together"] = tuple(sum(times[kind] for times in run.values()) for kind in (0, 1))
    return {
        part: (statistics.median(run[part][0] for run in runs), statistics.median(run[part][1] for run in runs))
        for part in runs[0]
    }


def table(times: Times, num_images: int) -> Table:
    """The parts of a start."""
    title = f"Start on {num_images} images, first batch of {BATCH_SIZE} at {AT:.0%} of an epoch"
    rows = ((part, f"{wall:.3f}", f"{cpu:.3f}") for part, (wall, cpu) in times.items())
    return number_table(title, ("", "seconds", "CPU seconds"), rows)


def main() -> None:
    """Read the flags, measure and print the table."""
    parser = tool_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=at_least(FEWEST_IMAGES), default=synthetic_coco.NUM_IMAGES)
    parser.add_argument("--repeat", type=at_least(1), default=5)
    flags = parser.parse_args()
    path = make_set(flags.folder, flags.images)
    Terminal().print(table(median_times(path, flags.repeat), flags.images))


if __name__ == "__main__":
    run_tool(main)
