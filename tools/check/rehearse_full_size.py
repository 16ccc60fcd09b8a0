"""Rehearses the paper's data at full size with made-up images: write, verify, and read one epoch of sentences.

    python tools/check/rehearse_full_size.py --folder rehearsal

123,287 images of 36 x 2,048 features with 616,767 captions become a shard set (19 GB of disk, no TSV needed); every
byte is verified; one epoch is read in batches of 128, half of the pairs with a hard negative's image. It proves that
each pair came exactly once and that each image came with its own features, prints time and memory of the three parts,
each in a fresh process, and leaves rehearsal/rehearsal.json. About ten minutes on two cores; --fraction 0.05 takes one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError
from msp_ds.preparation.recipe import Recipe
from msp_ds.preparation.verifying.verification import verify_set
from msp_ds.preparation.writing.build_writing import write_build
from msp_ds.preparation.writing.overwrite_guard import remove_set
from msp_ds.preparation.writing.shard_building import plan_build
from msp_ds.stateless_random import uniform
from msp_ds.terminal import Table, Terminal, run_tool
from tools.bench.common import synthetic_coco
from tools.bench.common.cost import Cost, measured
from tools.command_line import at_least, number_table, tool_parser

BATCH_SIZE, SEED, SWAP_RATIO = 128, 0, 0.5
FEWEST_IMAGES = -(-BATCH_SIZE // 5)
"""With five captions each they fill a batch."""
BYTES_PER_IMAGE = 152_000


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Counts of one epoch."""

    num_pairs: int
    """Pairs of the set."""
    num_read: int
    num_repeated: int
    """Pairs that came more than once; must be 0."""
    num_waiting: int
    """Pairs beyond the last full batch, which wait for the next epoch's order."""
    num_swapped: int
    """Pairs with a hard negative's image."""


def write(folder: Path, recipe: Recipe, num_images: int, jobs: int) -> int:
    """Write the set; its size in bytes."""
    stand_in = folder / "regions.made-up"
    stand_in.touch()
    build = plan_build(recipe, files=[synthetic_coco.MadeUpRegions(stand_in, num_images)], stage="sentence")
    return write_build(build, out=folder / "sentence", num_threads=jobs)["train"].num_bytes


def verify(folder: Path) -> None:
    """Read every byte of the set."""
    faults = verify_set(folder / "sentence" / "train").faults
    if faults:
        raise SystemExit("\n".join(faults))


def read_epoch(folder: Path) -> Epoch:
    """Read one epoch and count what came."""
    reader = Reader(open_set(folder / "sentence" / "train"))
    order = Order([reader.keys], seed=SEED, batch_size=BATCH_SIZE)
    memory = reader.buffers(BATCH_SIZE, num_random_regions=0)
    keys: list[Tensor] = []
    num_swapped = 0
    for step in range(order.batches_per_epoch):
        pairs = order.batch(step).pairs
        images, matched = with_swaps(reader, pairs)
        batch = reader.read(
            pairs, images=images, matched=matched, random_regions=torch.zeros(len(pairs), 0), into=memory
        )
        check_images(batch.features, images, reader)
        keys.append(batch.keys.clone())
        num_swapped += int((~matched).sum())
    read, times = np.unique(torch.cat(keys).numpy(), return_counts=True)
    return Epoch(
        num_pairs=len(reader.keys),
        num_read=int(times.sum()),
        num_repeated=int((times > 1).sum()),
        num_waiting=len(np.setdiff1d(reader.keys.numpy(), read)),
        num_swapped=num_swapped,
    )


def with_swaps(reader: Reader, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The image row of each of int64 [B] `pairs`, for half of them a hard negative; and bool [B]: it is its own.

    Raises: RuntimeError when the set has no hard negatives.
    """
    if reader.hard_negatives is None:
        raise RuntimeError("the set was written without hard negatives")
    own = reader.images[pairs]
    rng = uniform(seed=SEED, epoch=0, keys=reader.keys[pairs], purpose="rehearsal", n=2)
    matched = rng[:, 0] >= SWAP_RATIO
    choice = (rng[:, 1] * reader.hard_negatives.shape[1]).long()
    return torch.where(matched, own, reader.hard_negatives[own, choice].long()), matched


def check_images(features: Tensor, images: Tensor, reader: Reader) -> None:
    """Compare float16 [B, R, F] with what the images were made with: all by their mark, one of them in full.

    Raises: RuntimeError for another image than the asked one.
    """
    numbers = torch.tensor([int(reader.shards.keys[row].removeprefix("coco-")) - 1 for row in images.tolist()])
    corruption = features[:, 0, :2].long()
    whole = torch.equal(features[0], torch.from_numpy(synthetic_coco.half_features(int(numbers[0]))))
    if not whole or not torch.equal(corruption[:, 0] * 1000 + corruption[:, 1], numbers):
        raise RuntimeError("a batch holds other images than those that were asked for")


def require(epoch: Epoch) -> None:
    """Demand that each pair came exactly once, those apart that no full batch was left for.

    Raises: SystemExit when not.
    """
    if epoch.num_repeated or epoch.num_read + epoch.num_waiting != epoch.num_pairs:
        raise SystemExit(f"an epoch lost or repeated pairs: {epoch}")
    if epoch.num_waiting != epoch.num_pairs % BATCH_SIZE:
        raise SystemExit(f"more pairs wait than a batch lacks: {epoch}")


def table(num_images: int, num_bytes: int, costs: dict[str, Cost], epoch: Epoch) -> Table:
    """The three parts with their rates."""
    amounts = {
        "write": (num_images, "images/s"),
        "verify": (num_images, "images/s"),
        "epoch": (epoch.num_read, "pairs/s"),
    }
    rows = []
    for name, cost in costs.items():
        amount, unit = amounts[name]
        rate = f"{amount / cost.seconds:,.0f} {unit}"
        rows.append([name, f"{cost.seconds:.0f}", rate, f"{cost.cpu_seconds:.0f}", f"{cost.peak_bytes / 1e6:.0f}"])
    title = f"{num_images} images, {epoch.num_pairs} pairs, {num_bytes / 1e9:.1f} GB"
    return number_table(title, ("part", "seconds", "rate", "CPU seconds", "peak MB"), rows)


def main() -> None:
    """Read the flags, measure and print the table."""
    parser = tool_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--fraction", type=float, default=1.0, help="of COCO's images")
    parser.add_argument("--jobs", type=at_least(1), default=2)
    parser.add_argument("--keep", action="store_true", help="leave the shards")
    flags = parser.parse_args()
    num_images = round(synthetic_coco.NUM_IMAGES * flags.fraction) if math.isfinite(flags.fraction) else 0
    if num_images < FEWEST_IMAGES:
        least = math.ceil(FEWEST_IMAGES / synthetic_coco.NUM_IMAGES * 1e5) / 1e5
        raise InputError(
            f"--fraction {flags.fraction:g} is {num_images} images, too few for a batch; give {least} or more"
        )
    flags.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(flags.folder).free
    if free < num_images * BYTES_PER_IMAGE:
        raise SystemExit(f"{flags.folder} has {free / 1e9:.1f} GB free of {num_images * BYTES_PER_IMAGE / 1e9:.1f} GB")
    recipe = synthetic_coco.write_small_files(flags.folder, num_images)
    synthetic_coco.write_hard_negatives(flags.folder / "hard_negatives.npz", num_images)
    recipe = dataclasses.replace(recipe, hard_negatives=str(flags.folder / "hard_negatives.npz"))
    costs: dict[str, Cost] = {}
    num_bytes, costs["write"] = measured(write, flags.folder, recipe, num_images, flags.jobs)
    _, costs["verify"] = measured(verify, flags.folder)
    epoch, costs["epoch"] = measured(read_epoch, flags.folder)
    if not flags.keep:
        remove_set(flags.folder / "sentence" / "train")
        (flags.folder / "sentence").rmdir()
    facts = {"counts": dataclasses.asdict(epoch), "bytes": num_bytes}
    facts |= {name: dataclasses.asdict(cost) for name, cost in costs.items()}
    (flags.folder / "rehearsal.json").write_text(json.dumps(facts, indent=2) + "\n")
    Terminal().print(table(num_images, num_bytes, costs, epoch))
    Terminal().print(
        f"{epoch.num_read} pairs came, {epoch.num_repeated} of them twice; {epoch.num_waiting} wait for a full batch. "
        f"{epoch.num_swapped} came with a hard negative's image; all images were the requested ones."
    )
    require(epoch)


if __name__ == "__main__":
    run_tool(main)
