"""The region features of a whole set on one device, gathered there by index: a batch then copies no features.

COCO's 123,287 images take 16.9 GiB, a batch of 128 pairs 18 MiB. N images, S regions of them all, B pairs, R regions of
an image, D random regions, F feature width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from msp_ds.data.format.set_layout import ARRAYS
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.batch_buffers import BatchBuffers
from msp_ds.data.loading.image_files import HALF_BYTES, ImageFiles
from msp_ds.records import to_device
from msp_ds.storage.checksums import crc32


def table_bytes(shards: ShardSet) -> int:
    """What the features of a set take on a device."""
    return (int(shards.region_counts.sum()) + 1) * shards.index.feature_width * HALF_BYTES


class FeatureTable:
    """The features of a set's regions, one after the other, on a device; `ResidentImages.load` fills it."""

    def __init__(self, shards: ShardSet, device: torch.device) -> None:
        """Takes the memory. Raises MemoryError where the system gives no such piece."""
        self.counts = shards.region_counts.astype(np.int64)
        """int64 [N]: regions of each image."""
        self.first = np.cumsum(self.counts) - self.counts
        """int64 [N]: where its regions begin."""
        self.sums = np.zeros(len(self.counts), np.uint32)
        """uint32 [N]: the crc32 of its features."""
        self.padding = int(self.counts.sum())
        """The place of a region of zeros, for slots beyond an image's last."""
        self._rows = {key: row for row, key in enumerate(shards.keys)}
        self.features = _allocated(self.padding + 1, shards.index.feature_width, device)
        """float16 [S + 1, F]."""
        self.features[self.padding] = 0
        # Gathering moves bits: a GPU moves eight bytes as fast as two.
        self._words = self.features.view(torch.int64) if self.features.shape[1] % 4 == 0 else self.features

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self.features.nbytes

    def rows_of(self, shards: ShardSet) -> np.ndarray | None:
        """int64 [N]: the table's row of each image of a set, by their ids; None unless it can hold them all."""
        rows = np.array([self._rows.get(key, -1) for key in shards.keys], np.int64)
        same = (rows >= 0).all() and (self.counts[rows] == shards.region_counts).all()
        return rows if same and shards.index.feature_width == self.features.shape[1] else None

    def put(self, start: int, features: Tensor) -> None:
        """Copies float16 [n, R, F] `features` of images `start` to `start` + n - 1, padded, in the host's memory."""
        counts = self.counts[start : start + len(features)]
        data = features.numpy()
        for place, count in enumerate(counts.tolist()):
            self.sums[start + place] = crc32(data[place, :count].reshape(-1).view(np.uint8).data)
        is_there = torch.arange(features.shape[1]) < torch.from_numpy(counts)[:, None]
        flat = features.flatten(0, 1) if bool(is_there.all()) else features[is_there]
        first = int(self.first[start])
        # The copy has ended when it returns: the host's memory serves again.
        self.features[first : first + len(flat)].copy_(flat)

    def at(self, places: np.ndarray) -> Tensor:
        """float16 [..., F]: the regions at int64 [...] `places`, on the table's device.

        Nobody waits for a GPU: the places travel from pinned memory, and copy and gathering are queued on the calling
        thread's current stream, as are the other copies of a batch.
        """
        index = to_device(torch.from_numpy(places), self.features.device)
        found = self._words.index_select(0, index.flatten()).view(torch.float16)
        return found.view(*places.shape, self.features.shape[1])


class ResidentImages:
    """The images of a set whose features lie in a table: its own, or that of a set with these images.

    `load` or `recognise` has to have gone over all images before any is read.
    """

    def __init__(self, files: ImageFiles, table: FeatureTable, rows: np.ndarray) -> None:
        """rows: int64 [N], the table's row of each image."""
        self.table = table
        self._files = files
        self._rows = rows
        self._counts = table.counts[rows]
        self._starts = np.cumsum(self._counts) - self._counts
        total = int(self._counts.sum())
        self._columns = {
            name: np.empty((total, 4) if name == "boxes" else total, kind)
            for name, kind in ARRAYS.items()
            if name != "features"
        }

    @property
    def buffer_width(self) -> int:
        """0: features do not pass through buffers."""
        return 0

    def load(self, start: int, end: int, through: Tensor) -> None:
        """Reads images `start` to `end` - 1 of the table's own set into it, every byte checked.

        through: float16 [end - start or more, R, F], memory of the host that they pass through. Raises ShardError.
        """
        rows = np.arange(start, end)
        features = through[: len(rows)]
        self._keep(start, end, self._files.read_columns(rows, features.numpy()))
        self.table.put(start, features)

    def recognise(self, start: int, end: int) -> bool:
        """Whether the table has the features of images `start` to `end` - 1, by the checksums of their payloads.

        All else of the images is read. Other stages have other texts in their payloads, but the features come last in
        each: the checksum of the whole is that of the beginning, continued by the features'.
        """
        columns = self._files.recognise(np.arange(start, end), self.table.sums[self._rows[start:end]])
        if columns is None:
            return False
        self._keep(start, end, columns)
        return True

    def read(self, rows: np.ndarray, into: BatchBuffers) -> Tensor:
        """float16 [B, R, F] of the images in int64 [B] `rows`, on the table's device; all else into the buffers."""
        counts, slots = self._counts[rows], np.arange(into.region_mask.shape[1])
        is_there = slots < counts[:, None]
        own = (self._starts[rows][:, None] + slots)[is_there]
        into.fill_regions(counts, {name: column[own] for name, column in self._columns.items()})
        places = self.table.first[self._rows[rows]][:, None] + slots
        return self.table.at(np.where(is_there, places, self.table.padding))

    def read_random_regions(self, rows: np.ndarray, places: np.ndarray, into: BatchBuffers) -> Tensor:
        """float16 [B, D, F]: for each of int64 [B, D] `rows` the region in int64 [B, D] `places`."""
        return self.table.at(self.table.first[self._rows[rows]] + places)

    def _keep(self, start: int, end: int, columns: dict[str, np.ndarray]) -> None:
        first = int(self._starts[start])
        last = first + int(self._counts[start:end].sum())
        for name, values in columns.items():
            self._columns[name][first:last] = values


def _allocated(rows: int, width: int, device: torch.device) -> Tensor:
    """float16 [rows, width], whatever stands in it."""
    try:
        return torch.empty(rows, width, dtype=torch.float16, device=device)
    except RuntimeError as error:  # torch.OutOfMemoryError is one of a GPU; a CPU's has no type of its own
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryError(f"no memory for {rows} regions") from None
