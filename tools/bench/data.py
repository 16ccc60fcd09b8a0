"""Five ways to feed a trainer from one synthetic set, side by side: images a second, ready in batches of 256.

    python tools/bench/data.py --images 3000        (a minute or two; 1.6 GB under --folder)

Ours; LXMERT's way (every image as float32 in memory, torch's DataLoader and collate); webdataset's pipeline with two
workers; HDF5; LMDB. All hand over float16 (LXMERT's: float32) features [256, 36, 2048] with boxes, in random order,
from the page cache; only ours checks each image's crc32, and reads labels and texts too. At the end our start on an
index of COCO's full size (tools/bench/start.py; another minute and 0.4 GB the first time). Needs: pip install
'msp-ds[tools]'
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

try:
    import h5py
    import lmdb
except ImportError as error:
    raise SystemExit(f"error: {error}; the benchmark reads other formats too: pip install -e '.[tools]'") from None
import msgpack
import numpy as np
import torch
import typer
import webdataset
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.format.shards import open_set, read_record
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import Reader
from msp_ds.records import RegionRecord
from msp_ds.terminal import Terminal, run_tool
from tools.bench import start
from tools.bench.common.cost import measured, peak_memory
from tools.bench.common.synthetic_coco import NUM_IMAGES, random_record, random_words, write_word_set
from tools.command_line import number_table

BATCH, REGIONS, WIDTH, TEXTS = 256, 36, 2048, 5

Batches = Iterator[Any]


def train_set(folder: Path) -> Path:
    """The shards in a folder of `make_set`."""
    return folder / "shards" / "sentence" / "train"


def make_set(folder: Path, images: int) -> None:
    """Shards, HDF5 and LMDB of the same images, unless they are there."""
    if (folder / "done").exists():
        return
    rng = np.random.default_rng(0)
    rows = np.abs(rng.standard_normal((64 * REGIONS, WIDTH))).astype(np.float16)
    rows[rng.random(rows.shape) < 0.34] = 0  # real features hold a third of zeros

    def examples() -> Iterator[tuple[RegionRecord, list[str]]]:
        for number in range(images):
            words, features = random_words(rng, 14), rows[rng.integers(0, len(rows), REGIONS)]
            yield random_record(number, features, rng), [" ".join(words[: 6 + text * 2]) for text in range(TEXTS)]

    write_word_set(train_set(folder), examples(), split="train")
    copy_to_peers(folder)
    (folder / "done").touch()


def copy_to_peers(folder: Path) -> None:
    """The same images as HDF5 (a chunk an image) and LMDB (msgpack of float16)."""
    shards = open_set(train_set(folder))
    count = len(shards.keys)
    environment = lmdb.open(str(folder / "lmdb"), map_size=(count + 100) * 200_000)
    with h5py.File(folder / "set.h5", "w") as file, environment.begin(write=True) as transaction:
        features = file.create_dataset("features", (count, REGIONS, WIDTH), "f2", chunks=(1, REGIONS, WIDTH))
        boxes = file.create_dataset("boxes", (count, REGIONS, 4), "f4")
        for row in range(count):
            record, _ = read_record(shards, row)
            features[row], boxes[row] = record.features, record.boxes
            value = {"features": record.features.tobytes(), "boxes": record.boxes.tobytes()}
            transaction.put(b"%d" % row, msgpack.packb(value))
    environment.close()


def random_rows(count: int, epoch: int) -> list[np.ndarray]:
    """The rows of an epoch in batches, the last one dropped if short."""
    order = np.random.default_rng(epoch).permutation(count)
    return [order[start : start + BATCH] for start in range(0, count - BATCH + 1, BATCH)]


class Ours:
    """The trainer's own reader: order by hash, threads, memory in turns, crc32."""

    def __init__(self, folder: Path) -> None:
        self.reader = Reader(open_set(train_set(folder)))
        images = self.reader.images
        # One text an image, as the others have none.
        self.pairs = torch.arange(0, len(images), TEXTS)
        self.order = Order([self.reader.keys[self.pairs]], seed=0, batch_size=BATCH)
        self.memory = [self.reader.buffers(BATCH, num_random_regions=0) for _ in range(2)]

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of an epoch from one on."""
        matched = torch.ones(BATCH, dtype=torch.bool)
        for place in range(start, self.order.batches_per_epoch):
            pairs = self.pairs[self.order.batch(epoch * self.order.batches_per_epoch + place).pairs]
            images, into = self.reader.images[pairs], self.memory[place % 2]
            yield self.reader.read(
                pairs, images=images, matched=matched, random_regions=torch.empty(BATCH, 0), into=into
            )


class LxmertsWay(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """As its trainer does: all images as float32 in a dictionary, a shuffling DataLoader without workers."""

    def __init__(self, folder: Path) -> None:
        reader = Reader(open_set(train_set(folder)))
        records = (reader.record(row) for row in range(reader.num_images))
        self.images = {
            row: {"features": record.features.astype(np.float32), "boxes": record.boxes.copy()}
            for row, record in enumerate(records)
        }

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[row]
        boxes = image["boxes"].copy()
        boxes[:, (0, 2)] /= 640
        boxes[:, (1, 3)] /= 480
        return torch.tensor(image["features"]), torch.tensor(boxes)

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of an epoch from one on: whatever comes before is drawn and dropped."""
        rows = [row.tolist() for row in random_rows(len(self.images), epoch)[start:]]
        return iter(DataLoader(self, batch_sampler=rows))


def unpacked(value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features and boxes in pixels of an image in msgpack."""
    record = msgpack.unpackb(value)
    boxes = np.frombuffer(record["boxes"], "<f4").reshape(REGIONS, 4)
    return np.frombuffer(record["features"], "<f2").reshape(REGIONS, WIDTH), boxes


def parsed(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and boxes of one sample, as a webdataset pipeline decodes it."""
    features, boxes = unpacked(sample["mp"])
    return torch.from_numpy(features.copy()), torch.from_numpy(boxes / np.float32([640, 480, 640, 480]))


class Webdataset:
    """Its pipeline as its documentation shows it: shuffled shards, a buffer of 500, two workers, batches in them."""

    def __init__(self, folder: Path) -> None:
        self.tars = sorted(str(path) for path in train_set(folder).glob("*.tar"))

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of an epoch; a later batch is only reached through those before it."""
        images = webdataset.WebDataset(self.tars, shardshuffle=len(self.tars), seed=epoch, empty_check=False)
        stream = images.shuffle(500).map(parsed).batched(BATCH, partial=False)
        loader = iter(webdataset.WebLoader(stream, batch_size=None, num_workers=2))
        for _ in range(start):
            next(loader, None)
        return loader


class RandomRows:
    """Reads random rows into fresh batches."""

    count: int
    """Images of the set."""

    def read(self, row: int, features: np.ndarray, boxes: np.ndarray, place: int) -> None:
        """Read a row to a place of a batch."""
        raise NotImplementedError

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of an epoch from one on."""
        for rows in random_rows(self.count, epoch)[start:]:
            features = np.empty((BATCH, REGIONS, WIDTH), np.float16)
            boxes = np.empty((BATCH, REGIONS, 4), np.float32)
            for place, row in enumerate(rows.tolist()):
                self.read(row, features, boxes, place)
            yield torch.from_numpy(features), torch.from_numpy(boxes)


class Hdf5(RandomRows):
    """One chunk an image."""

    def __init__(self, folder: Path) -> None:
        file = h5py.File(folder / "set.h5", "r")
        self.features, self.boxes, self.count = file["features"], file["boxes"], len(file["features"])

    def read(self, row: int, features: np.ndarray, boxes: np.ndarray, place: int) -> None:
        """Read a row to a place of a batch."""
        self.features.read_direct(features, np.s_[row], np.s_[place])
        self.boxes.read_direct(boxes, np.s_[row], np.s_[place])


class Lmdb(RandomRows):
    """msgpack values."""

    def __init__(self, folder: Path) -> None:
        environment = lmdb.open(str(folder / "lmdb"), readonly=True, lock=False, readahead=False)
        self.transaction, self.count = environment.begin(buffers=True), environment.stat()["entries"]

    def read(self, row: int, features: np.ndarray, boxes: np.ndarray, place: int) -> None:
        """Read a row to a place of a batch."""
        features[place], boxes[place] = unpacked(self.transaction.get(b"%d" % row))


WAYS: dict[str, Callable[[Path], Any]] = {
    "ours": Ours,
    "LXMERT's way": LxmertsWay,
    "webdataset, 2 workers": Webdataset,
    "HDF5": Hdf5,
    "LMDB": Lmdb,
}


def measure(name: str, folder: Path) -> dict[str, float]:
    """Measure one way: the start at 90 % of an epoch, then a warm epoch."""
    began = time.perf_counter()
    way = WAYS[name](folder)
    batches = len(open_set(train_set(folder)).keys) // BATCH
    # Two workers that each drop their last images have fewer batches: their start is then a pass over all.
    next(iter(way.batches(1, start=int(start.AT * batches))), None)
    start_seconds = time.perf_counter() - began
    for _ in way.batches(2):
        pass
    began, used, count = time.perf_counter(), cpu_seconds(), 0
    for _ in way.batches(3):
        count += BATCH
    wall = time.perf_counter() - began
    return {
        "images_per_s": count / wall,
        "cpu_us_per_image": (cpu_seconds() - used) / count * 1e6,
        "start_s": start_seconds,
        "rss_mb": peak_memory() / 2**20,
    }


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def show(results: dict[str, list[dict[str, float]]], images: int) -> None:
    """Medians, and how many times as fast ours is."""
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()
    }
    headers = ("", "images/s", "ours is", "CPU us/image", "first batch at 90 %, s", "peak RSS, MB")
    rows = (
        (
            name,
            f"{row['images_per_s']:,.0f}",
            f"{medians['ours']['images_per_s'] / row['images_per_s']:.1f} x",
            f"{row['cpu_us_per_image']:.0f}",
            f"{row['start_s']:.2f}",
            f"{row['rss_mb']:,.0f}",
        )
        for name, row in medians.items()
    )
    title = f"{images} images of {REGIONS} x {WIDTH}, batches of {BATCH}, medians of {len(results['ours'])}"
    Terminal(stderr=True).print(number_table(title, headers, rows))


def main(
    images: Annotated[int, typer.Option(min=2 * BATCH, help=f"Images in the set, {2 * BATCH} or more.")] = 3000,
    folder: Annotated[Path, typer.Option(help="Where the set is made and kept.")] = Path("bench"),
    repeat: Annotated[int, typer.Option(min=1, help="Rounds through all ways.")] = 3,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Measure five ways to feed a trainer, in turns."""
    folder = folder / str(images)
    make_set(folder, images)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(repeat):
        for name in WAYS:
            results[name].append(measured(measure, name, folder)[0])
    show(results, images)
    started = start.median_times(start.make_set(folder.parent, NUM_IMAGES), repeat)
    Terminal(stderr=True).print(start.table(started, NUM_IMAGES))
    if out is not None:
        out.write_text(json.dumps({"images": images, "runs": results, "start": started}, indent=2) + "\n")


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
