"""Compute hard negatives from mean region features: exact, resumable, in constant memory beside the means.

N images, F feature width, K hard negatives of an image.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from msp_ds.data.format.region_checks import LabelCounts
from msp_ds.data.format.set_tables import npz_bytes
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.reader import Reader
from msp_ds.data.progress import NoProgress, Progress
from msp_ds.demo_world.nearest import NearestRows, faster_products
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.hard_negative_list import HardNegativeList
from msp_ds.preparation.region_features.region_files import RegionFile, common_detector, list_region_files
from msp_ds.records import RegionRecord
from msp_ds.storage.atomic_files import require_own_files, write_atomically

_ANY_LABELS = LabelCounts(objects=2**15, attributes=2**15)
"""Labels do not matter here, so no vocabulary is needed."""
_WORK = re.compile(r"(key|means\.npy|rows-\d{8}\.npz)(\.part)?|means\.part")


class Images(Protocol):
    """Images with regions, read once in order."""

    image_ids: tuple[str, ...]
    """Canonical, N of them."""
    fingerprint: str
    """A fingerprint that changes when the features may have changed."""

    def records(self) -> Iterator[RegionRecord]:
        """Yield the images in the order of image_ids."""


class SetImages:
    """The images of a shard set."""

    def __init__(self, shards: ShardSet) -> None:
        self.image_ids = shards.keys
        self.fingerprint = hashlib.sha256("\n".join(shard.sha256 for shard in shards.index.shards).encode()).hexdigest()
        self._shards = shards

    def records(self) -> Iterator[RegionRecord]:
        """Yield the images row by row. Raises: ShardError for a damaged one."""
        reader = Reader(self._shards)
        for row in range(len(self.image_ids)):
            yield reader.record(row)


class RawImages:
    """The images of files of region features."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        """Raises: InputError as list_region_files and common_detector do, and for an image that is listed twice."""
        files = list_region_files(paths)
        common_detector(files)
        self._rows = [(file, row) for file in files for row in file.rows()]
        self.image_ids = tuple(row.image_id for _, row in self._rows)
        twice = [image_id for image_id, times in Counter(self.image_ids).items() if times > 1]
        if twice:
            raise InputError(f"image {twice[0]} comes twice among the region features; every image needs one row")
        self.fingerprint = _file_state([file for file, _ in self._rows])

    def records(self) -> Iterator[RegionRecord]:
        """Yield the images file by file. Raises: InputError for a damaged row."""
        for file, row in self._rows:
            yield file.read(row, _ANY_LABELS).record


def _file_state(files: list[RegionFile]) -> str:
    """Return a hash of names, sizes and times: hashing 37 GB of content would take as long as the means."""
    paths = list(dict.fromkeys(file.path.resolve() for file in files))
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of the search."""

    count: int = 100
    """K."""
    work: Path
    """Folder of intermediate results: mean features (N F float32) and blocks of neighbours. The caller deletes it."""
    progress: Progress = field(default_factory=NoProgress)


def find_hard_negatives(images: Images, search: Search) -> HardNegativeList:
    """Return the K nearest other images of each image by Euclidean distance of mean region features, then by order.

    An interrupted search continues when it is called again with the same images and count.

    Raises: InputError when there are fewer than two images, their features differ in width, or the disk is full.
    """
    num_images = len(images.image_ids)
    if num_images < 2 or search.count < 1:
        raise InputError(
            f"{search.count} hard negatives among {num_images} images are not possible; at least 1 among 2 images are"
        )
    key = f"{images.fingerprint} {hashlib.sha256(' '.join(images.image_ids).encode()).hexdigest()} {search.count}"
    try:
        _prepare_folder(search.work, key)
        means = _stored_means(images, search)
        blocks = _stored_blocks(means, search)
    except OSError as error:
        raise InputError(
            f"{search.work} cannot be written ({error.strerror}); free its disk, then call the same command again"
        ) from None
    return HardNegativeList(image_ids=tuple(images.image_ids), neighbours=np.concatenate(blocks))


def _prepare_folder(work: Path, key: str) -> None:
    """Prepare the folder: keep the results of the same search, delete those of another."""
    mark = work / "key"
    if mark.is_file() and mark.read_bytes() == key.encode():
        return
    remove_work(work)
    work.mkdir(parents=True)
    _write(mark, key.encode())


def remove_work(work: Path) -> None:
    """Delete a search's folder, if there is one. Raises: InputError naming files that are not of a search."""
    require_own_files(work, is_own=lambda name: _WORK.fullmatch(name) is not None, what="a search", fix="move it")
    shutil.rmtree(work, ignore_errors=True)


def _write(path: Path, data: bytes | memoryview) -> None:
    write_atomically(path, data, temporary=path.with_name(f"{path.name}.part"))


def _stored_means(images: Images, search: Search) -> np.ndarray:
    """Return the mean features, float32 [N, F], as a memory map."""
    path = search.work / "means.npy"
    search.progress.start("mean features (images)", len(images.image_ids))
    if path.is_file():
        search.progress.advance(len(images.image_ids))
    else:
        part = path.with_name("means.part")
        _write_means(part, images, search.progress)
        part.rename(path)
    means: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return means


def _write_means(path: Path, images: Images, progress: Progress) -> None:
    means: np.memmap | None = None
    for row, record in enumerate(images.records()):
        # numpy, since torch would start several threads for an array as small as this.
        mean = record.features.astype(np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)
        if means is None:
            means = np.lib.format.open_memmap(
                path, mode="w+", dtype=np.float32, shape=(len(images.image_ids), len(mean))
            )
        if mean.shape != means.shape[1:]:
            raise InputError(
                f"{record.source}: features are {len(mean)} wide, those of the images before {means.shape[1]}; "
                "hard negatives need the features of one extractor"
            )
        means[row] = mean
        progress.advance(1)
    if means is not None:
        means.flush()


def _stored_blocks(means: np.ndarray, search: Search) -> list[np.ndarray]:
    """Return the neighbours of each block, int32 [Q, K]."""
    nearest = NearestRows(means, count=search.count, products=faster_products())
    search.progress.start("hard negatives (images)", len(means))
    for start, end in nearest.blocks():
        path = search.work / f"rows-{start:08d}.npz"
        if not path.is_file():
            _write(path, npz_bytes({"rows": nearest.find(start, end)}))
        search.progress.advance(end - start)
    return [np.load(search.work / f"rows-{start:08d}.npz")["rows"] for start, _ in nearest.blocks()]
