"""Reads the images of a set by row: features go from the disk directly into a batch, and every byte is checked.

B pairs, R regions, F feature width, N images. A payload ends with its features, so one preadv puts its head into a
scratch buffer and its features into the batch.
"""

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from msp_ds.data.format.region_checks import has_only_finite
from msp_ds.data.format.set_layout import ARRAYS, HALF_BYTES, unpack_head
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.batch_buffers import BatchBuffers
from msp_ds.records import Batch, RegionRecord, no_corruption
from msp_ds.storage.checksums import crc32
from msp_ds.storage.positioned_reads import open_to_read, read_at, read_into

THREADS = max(1, min(4, os.cpu_count() or 1))
"""Threads that read one batch. Waiting for the disk and computing checksums both release Python's lock."""
LEAST_ROWS_PER_THREAD = 16
ADVISED_ROWS = 64
"""Images that are announced to the system before they are read, so that a cold disk can reorder many requests."""

CLOSED = -1  # stands for the descriptor of a file that is not open

Head = dict[str, Any]  # the result of `unpack_head`


class ImageFiles:
    """The open tars of a set; several threads may share it.

    All tars are opened at the start, except in a set that is fetched by block, where `open` opens them.
    """

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self._feature_bytes = shards.region_counts.astype(np.int64) * shards.index.feature_width * HALF_BYTES
        self._longest_head = max(0, int((shards.lengths - self._feature_bytes).max()))
        self._checked = np.zeros(len(shards.keys), dtype=np.bool_)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="images")
        self._files = [CLOSED] * len(shards.index.shards)
        # Not __del__, since at the end of a program os may be gone.
        weakref.finalize(self, _close, self._files)
        if not shards.comes_by_block:
            self.open(range(len(self._files)))

    def open(self, tars: Iterable[int]) -> None:
        """Open these tars if they are not open. No other thread may read meanwhile."""
        paths = self.shards.shard_paths
        for tar in tars:
            if self._files[tar] == CLOSED:
                self._files[tar] = open_to_read(paths[tar])

    def close_all_but(self, tars: Iterable[int]) -> None:
        """Close all other tars, so that evicted files free their disk space. No other thread may read meanwhile."""
        for tar in set(range(len(self._files))).difference(tars):
            if self._files[tar] != CLOSED:
                os.close(self._files[tar])
                self._files[tar] = CLOSED

    def record(self, row: int) -> RegionRecord:
        """Read the image in a row. Raises: ShardError as `ShardSet.unpack`."""
        shards = self.shards
        payload = read_at(self._files[shards.shard_of[row]], int(shards.lengths[row]), int(shards.offsets[row]))
        return shards.unpack(row, payload)[0]

    def read(self, rows: np.ndarray, into: BatchBuffers) -> None:
        """Fill the buffers' regions with the images in int64 [B] `rows`. Raises: ShardError with the image's place."""
        heads: list[Head] = [{}] * len(rows)
        features = into.features.numpy()

        def read_some(start: int, end: int) -> None:
            heads[start:end] = self._read_features(rows[start:end], features[start:end])

        self._in_threads(read_some, len(rows))
        into.fill_regions(self.shards.region_counts[rows], _columns(heads))

    def read_random_regions(self, rows: np.ndarray, regions: np.ndarray, into: BatchBuffers) -> None:
        """Fill the buffers' random features with the regions int64 [B, D] `regions` of the images int64 [B, D] `rows`.

        No checksum covers a single region, so the whole image is read and checked the first time.
        """
        random_regions = into.random_features.numpy()
        width = self.shards.index.feature_width * HALF_BYTES
        targets = _bytes_of(random_regions)
        flat = rows.reshape(-1)
        starts = self.shards.offsets[flat] + self.shards.lengths[flat] - self._feature_bytes[flat]
        starts = starts + regions.reshape(-1) * width

        def read_some(first: int, end: int) -> None:
            files = self.shards.shard_of[flat[first:end]].tolist()
            for number, file, start in zip(range(first, end), files, starts[first:end].tolist(), strict=True):
                if read_into(self._files[file], [targets[number * width : (number + 1) * width]], start) != width:
                    raise self.shards.fault(int(flat[number]), "the file ends before its features do")
            self._check(flat[first:end])

        self._in_threads(read_some, len(flat))

    def _check(self, rows: np.ndarray) -> None:
        unknown = np.unique(rows[~self._checked[rows]])
        if len(unknown):
            scratch = np.empty((1, self.shards.index.num_regions, self.shards.index.feature_width), np.float16)
            for row in unknown:
                self._read_features(np.array([row]), scratch)

    def _in_threads(self, work: Callable[[int, int], None], count: int) -> None:
        """Run work(start, end) over 0 to count - 1, one piece per thread; all have ended when this returns."""
        pieces = max(1, min(THREADS, count // LEAST_ROWS_PER_THREAD))
        edges = [count * piece // pieces for piece in range(pieces + 1)]
        futures = [self._pool.submit(work, start, end) for start, end in pairwise(edges[1:])]
        try:
            work(edges[0], edges[1])
        finally:
            wait(futures)  # no thread may write to the buffers after this raised an error
        for future in futures:
            future.result()

    def _read_features(self, rows: np.ndarray, features: np.ndarray) -> list[Head]:
        """Read the features of int64 [B] `rows` into float16 [B, R, F]; return the heads."""
        shards, heads = self.shards, []
        spans = np.stack((shards.shard_of[rows], shards.offsets[rows], shards.lengths[rows])).T.tolist()
        counts, sizes = shards.region_counts[rows].tolist(), self._feature_bytes[rows].tolist()
        targets = _bytes_of(features)
        row_bytes = features[0].nbytes
        scratch = memoryview(bytearray(self._longest_head))
        for number, row in enumerate(rows.tolist()):
            if number % ADVISED_ROWS == 0:
                self._announce(spans[number : number + ADVISED_ROWS])
            file, offset, length = spans[number]
            count, size = counts[number], sizes[number]
            target = targets[number * row_bytes : number * row_bytes + min(size, row_bytes)]
            head = scratch[: max(0, length - size)]
            whole = read_into(self._files[file], [head, target], offset) == length
            value = self._valid_head(row, head, target, features[number, :count]) if whole else None
            heads.append(value if value is not None else self._slow_head(row, features[number]))
            features[number, count:] = 0
        self._checked[rows] = True
        return heads

    def _announce(self, spans: Sequence[Sequence[int]]) -> None:
        if hasattr(os, "posix_fadvise"):
            for file, offset, length in spans:
                os.posix_fadvise(self._files[file], offset, length, os.POSIX_FADV_WILLNEED)

    def _valid_head(self, row: int, head: memoryview, target: memoryview, features: np.ndarray) -> Head | None:
        """The head of a payload, or None if its checksum or any field is wrong."""
        shards = self.shards
        if crc32(target, crc32(head)) != shards.crc32[row]:
            return None
        value = unpack_head(bytearray(head), num_regions=len(features), feature_width=features.shape[1])
        if value is None or value["image_id"] != shards.keys[row]:
            return None
        return value if self._checked[row] or has_only_finite(features) else None

    def _slow_head(self, row: int, features: np.ndarray) -> Head:
        """The head of an image by `record`, which raises the error if there is one."""
        record = self.record(row)
        features[: len(record.features)] = record.features
        return _head_of(record)


def read_records(records: Sequence[RegionRecord], *, num_regions: int) -> Batch:
    """Return the batch of B images in memory, with at least so many region slots; their text is one of padding."""
    counts = np.array([len(record.features) for record in records])
    into = BatchBuffers.allocate(
        len(records),
        num_regions=max(num_regions, *counts.tolist()),
        num_random_regions=0,
        feature_width=records[0].features.shape[1],
    )
    for features, record in zip(into.features.zero_().numpy(), records, strict=True):
        features[: len(record.features)] = record.features
    into.fill_regions(counts, _columns([_head_of(record) for record in records]))
    padding = torch.zeros(len(records), 1, dtype=torch.int64)
    return Batch(
        keys=padding[:, 0],
        token_ids=padding,
        word_positions=padding,
        token_mask=padding > 0,
        answer_ids=padding[:, :0],
        answer_scores=torch.empty(len(records), 0),
        corruption=no_corruption(padding, into.region_mask),
        **into.tensors(),
    )


def _head_of(record: RegionRecord) -> Head:
    """The fields of an image as in its payload."""
    arrays = {name: np.ascontiguousarray(getattr(record, name), kind).tobytes() for name, kind in ARRAYS.items()}
    return {"width": record.width, "height": record.height, **arrays}


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _columns(heads: list[Head]) -> dict[str, np.ndarray]:
    """The fields of all images' regions one after the other; boxes as fractions of width and height."""
    joined = {
        name: np.frombuffer(b"".join([head[name] for head in heads]), kind)
        for name, kind in ARRAYS.items()
        if name != "features"
    }
    counts = [len(head["object_ids"]) // np.dtype(ARRAYS["object_ids"]).itemsize for head in heads]
    sides = np.array([[head["width"], head["height"]] * 2 for head in heads], np.float32).reshape(-1, 4)
    joined["boxes"] = joined["boxes"].reshape(-1, 4) / np.repeat(sides, counts, axis=0)
    return joined


def _close(files: list[int]) -> None:
    for file in files:
        if file != CLOSED:
            os.close(file)
