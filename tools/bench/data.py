"""Five ways to feed a trainer from one synthetic set, side by side: images ready in batches of 256 a second.

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
from msp_ds.data.format.text import WordPieces
from msp_ds.data.format.vocabulary import SPECIAL_PIECES, parse_vocabulary
from msp_ds.data.loading.order import Order
from msp_ds.data.loading.reader import Reader
from msp_ds.preparation.writing.shard_writer import SetPlan, write_set
from msp_ds.records import RegionRecord
from msp_ds.terminal import Table, Terminal, run_tool
from tools.bench import start
from tools.bench.common.cost import measured, peak_memory
from tools.bench.common.synthetic_coco import NUM_IMAGES

BATCH, REGIONS, WIDTH, TEXTS = 256, 36, 2048, 5
AT = 0.9
"""Share of the epoch at which the start is timed."""

Batches = Iterator[Any]


def make_set(folder: Path, images: int) -> None:
    """Shards, HDF5 and LMDB of the same images, unless they are there."""
    if (folder / "done").exists():
        return
    chance = np.random.default_rng(0)
    rows = np.abs(chance.standard_normal((64 * REGIONS, WIDTH))).astype(np.float16)
    rows[chance.random(rows.shape) < 0.34] = 0  # real features hold a third of zeros

    def examples() -> Iterator[tuple[RegionRecord, list[str]]]:
        for number in range(images):
            words = [f"w{word}" for word in chance.integers(0, 200, 14)]
            yield (
                a_record(number, rows[chance.integers(0, len(rows), REGIONS)], chance),
                [" ".join(words[: 6 + text * 2]) for text in range(TEXTS)],
            )

    pieces = [*SPECIAL_PIECES, *(f"w{number}" for number in range(200))]
    plan = SetPlan(
        stage="sentence",
        split="train",
        pieces=WordPieces(parse_vocabulary("\n".join(pieces).encode(), name="made up")),
        objects_data="\n".join(f"o{number}" for number in range(1600)).encode(),
        attributes_data="\n".join(f"a{number}" for number in range(400)).encode(),
        max_tokens=20,
    )
    target = folder / "shards" / "sentence" / "train"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_set(target, plan=plan, examples=examples(), counts={})
    copy_to_peers(folder)
    (folder / "done").touch()


def a_record(number: int, features: np.ndarray, chance: np.random.Generator) -> RegionRecord:
    """One made-up image."""
    corners = np.sort(chance.random((REGIONS, 2, 2)), axis=1).astype(np.float32) * np.float32([640, 480])
    return RegionRecord(
        image_id=f"coco-{number + 1}",
        source=f"made up:{number}",
        height=480,
        width=640,
        features=features,
        boxes=corners.reshape(REGIONS, 4),
        object_ids=chance.integers(0, 1600, REGIONS).astype(np.int16),
        object_scores=chance.random(REGIONS, np.float32),
        attribute_ids=chance.integers(0, 400, REGIONS).astype(np.int16),
        attribute_scores=chance.random(REGIONS, np.float32),
    )


def copy_to_peers(folder: Path) -> None:
    """The same images as HDF5 (a chunk an image) and LMDB (msgpack of float16)."""
    shards = open_set(folder / "shards" / "sentence" / "train")
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
        self.reader = Reader(open_set(folder / "shards" / "sentence" / "train"))
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


class InMemory(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """LXMERT's way: every image of the set as float32 arrays in a dictionary."""

    def __init__(self, folder: Path) -> None:
        reader = Reader(open_set(folder / "shards" / "sentence" / "train"))
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


class LxmertsWay:
    """As its trainer does: a shuffling DataLoader without workers."""

    def __init__(self, folder: Path) -> None:
        self.images = InMemory(folder)

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of an epoch from one on: whatever comes before is drawn and dropped."""
        rows = [row.tolist() for row in random_rows(len(self.images), epoch)[start:]]
        return iter(DataLoader(self.images, batch_sampler=rows))


def parsed(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a webdataset pipeline makes of one member."""
    record = msgpack.unpackb(sample["mp"])
    features = np.frombuffer(record["features"], "<f2").reshape(REGIONS, WIDTH)
    boxes = np.frombuffer(record["boxes"], "<f4").reshape(REGIONS, 4) / np.float32([640, 480, 640, 480])
    return torch.from_numpy(features.copy()), torch.from_numpy(boxes)


class Webdataset:
    """Its pipeline as its documentation shows it: shuffled shards, a buffer of 500, two workers, batches in them."""

    def __init__(self, folder: Path) -> None:
        self.tars = sorted(str(path) for path in (folder / "shards" / "sentence" / "train").glob("*.tar"))
        self.count = sum(1 for _ in open_set(folder / "shards" / "sentence" / "train").keys)

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """An epoch; there is no way to a later batch but through those before it."""
        images = webdataset.WebDataset(self.tars, shardshuffle=len(self.tars), seed=epoch, empty_check=False)
        stream = images.shuffle(500).map(parsed).batched(BATCH, partial=False)
        loader = iter(webdataset.WebLoader(stream, batch_size=None, num_workers=2))
        for _ in range(start):
            next(loader, None)
        return loader


class Hdf5:
    """One chunk an image, read into a fresh batch."""

    def __init__(self, folder: Path) -> None:
        file = h5py.File(folder / "set.h5", "r")
        self.features, self.boxes = file["features"], file["boxes"]

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of an epoch from one on."""
        for rows in random_rows(len(self.features), epoch)[start:]:
            batch = np.empty((BATCH, REGIONS, WIDTH), np.float16)
            boxes = np.empty((BATCH, REGIONS, 4), np.float32)
            for place, row in enumerate(rows.tolist()):
                self.features.read_direct(batch, np.s_[row], np.s_[place])
                self.boxes.read_direct(boxes, np.s_[row], np.s_[place])
            yield torch.from_numpy(batch), torch.from_numpy(boxes)


class Lmdb:
    """msgpack values, read into a fresh batch."""

    def __init__(self, folder: Path) -> None:
        self.environment = lmdb.open(str(folder / "lmdb"), readonly=True, lock=False, readahead=False)
        self.count = self.environment.stat()["entries"]

    def batches(self, epoch: int, start: int = 0) -> Batches:
        """The batches of an epoch from one on."""
        with self.environment.begin(buffers=True) as transaction:
            for rows in random_rows(self.count, epoch)[start:]:
                batch = np.empty((BATCH, REGIONS, WIDTH), np.float16)
                boxes = np.empty((BATCH, REGIONS, 4), np.float32)
                for place, row in enumerate(rows.tolist()):
                    record = msgpack.unpackb(transaction.get(b"%d" % row))
                    batch[place] = np.frombuffer(record["features"], "<f2").reshape(REGIONS, WIDTH)
                    boxes[place] = np.frombuffer(record["boxes"], "<f4").reshape(REGIONS, 4)
                yield torch.from_numpy(batch), torch.from_numpy(boxes)


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
    batches = len(open_set(folder / "shards" / "sentence" / "train").keys) // BATCH
    # Two workers that each drop their last images have fewer batches: their start is then a pass over all.
    next(iter(way.batches(1, start=int(AT * batches))), None)
    start = time.perf_counter() - began
    for _ in way.batches(2):
        pass
    began, used, count = time.perf_counter(), cpu_seconds(), 0
    for _ in way.batches(3):
        count += BATCH
    wall = time.perf_counter() - began
    return {
        "images_per_s": count / wall,
        "cpu_us_per_image": (cpu_seconds() - used) / count * 1e6,
        "start_s": start,
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
    table = Table("", "images/s", "ours is", "CPU us/image", "first batch at 90 %, s", "peak RSS, MB")
    for name, row in medians.items():
        table.add_row(
            name,
            f"{row['images_per_s']:,.0f}",
            f"{medians['ours']['images_per_s'] / row['images_per_s']:.1f} x",
            f"{row['cpu_us_per_image']:.0f}",
            f"{row['start_s']:.2f}",
            f"{row['rss_mb']:,.0f}",
        )
    table.title = f"{images} images of {REGIONS} x {WIDTH}, batches of {BATCH}, medians of {len(results['ours'])}"
    Terminal(stderr=True).print(table)


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
