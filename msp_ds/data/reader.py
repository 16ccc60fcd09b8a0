"""From rows of a shard set to a clean batch: one pread an image, checked against the index.

B pairs, T text tokens, R regions, D stray regions, F feature width, N images, P pairs, K look-alikes.
"""

from __future__ import annotations

import dataclasses
import os
import zlib

import numpy as np
import torch
from torch import Tensor

from msp_ds.data.set_layout import mending, unpack_record
from msp_ds.data.shards import ShardSet
from msp_ds.errors import ShardError
from msp_ds.records import IGNORE, Batch, RegionRecord, neutral_marks

PAD_TO = 4
"""Texts are padded to the longest of their batch, rounded up to a multiple of this."""


class Reader:
    """Reads batches of one shard set; several threads may share it."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.keys: Tensor = torch.from_numpy(shards.pairs.keys)
        """int64 [P]: the key of each pair."""
        self.images: Tensor = torch.from_numpy(shards.pairs.image_rows.astype(np.int64))
        """int64 [P]: each pair's own image row."""
        self.look_alikes = None if shards.look_alikes is None else torch.from_numpy(shards.look_alikes)
        """int32 [N, K], -1 beyond an image's last, or None."""
        self.num_images = len(shards.keys)
        self._files = [os.open(path, os.O_RDONLY) for path in shards.shard_paths]

    def __del__(self) -> None:
        for file in getattr(self, "_files", []):
            os.close(file)

    def longest(self, pairs: Tensor) -> int:
        """Tokens of the longest text among int64 [B] `pairs`, rounded up to a multiple of PAD_TO."""
        rows, ends = pairs.numpy(), self.shards.pairs.offsets
        return int(-(-(ends[rows + 1] - ends[rows]).max() // PAD_TO) * PAD_TO)

    def read(
        self, pairs: Tensor, *, images: Tensor, matched: Tensor, strays: Tensor, num_tokens: int | None = None
    ) -> Batch:
        """The clean batch of int64 [B] `pairs`, each with the image of int64 [B] `images`.

        matched: bool [B], whether that image is the pair's own. strays: float32 [B, 2 D] in [0, 1), the choice of D
        image rows and of D regions in them. num_tokens: T, by default that of the longest text.

        Raises ShardError when bytes on disk differ from the index.
        """
        token_ids, positions = self.texts(pairs, num_tokens or self.longest(pairs))
        arrays = self._images(images.tolist())
        region_mask = torch.from_numpy(arrays.pop("region_mask"))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return Batch(
            keys=self.keys[pairs],
            token_ids=token_ids,
            word_positions=positions,
            token_mask=positions > 0,
            region_mask=region_mask,
            stray_features=torch.from_numpy(self._strays(strays.numpy())),
            marks=dataclasses.replace(neutral_marks(token_ids, region_mask), matched=matched),
            **tensors,
        )

    def texts(self, pairs: Tensor, num_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """int64 [B, T] piece ids and word positions of int64 [B] `pairs`, 0 on padding; T by default the longest's."""
        rows, table = pairs.numpy(), self.shards.pairs
        starts, ends = table.offsets[rows], table.offsets[rows + 1]
        places = starts[:, None] + np.arange(num_tokens or (ends - starts).max())
        inside = places < ends[:, None]
        places = np.where(inside, places, 0)
        token_ids = np.where(inside, table.token_ids[places], 0).astype(np.int64)
        positions = np.where(inside, table.word_positions[places], 0).astype(np.int64)
        return torch.from_numpy(token_ids), torch.from_numpy(positions)

    def record(self, row: int) -> RegionRecord:
        """The image in a row, its checksum and every field checked."""
        shards = self.shards
        payload = os.pread(self._files[shards.shard_of[row]], int(shards.lengths[row]), int(shards.offsets[row]))
        if zlib.crc32(payload) != shards.crc32[row]:
            raise ShardError(f"{shards.where(row)}: the bytes do not match their checksum; {self._mend()}")
        record, _ = unpack_record(payload, where=shards.where(row))
        if record.image_id != shards.keys[row]:
            raise ShardError(f"{shards.where(row)}: holds image {record.image_id}; {self._mend()}")
        return record

    def _mend(self) -> str:
        return mending(self.shards.index.stage)

    def _images(self, rows: list[int]) -> dict[str, np.ndarray]:
        """The batch's arrays of regions; slots beyond an image's last region are zero, IGNORE and not in the mask."""
        size, regions, width = len(rows), self.shards.index.num_regions, self.shards.index.feature_width
        arrays: dict[str, np.ndarray] = {
            "features": np.zeros((size, regions, width), np.float16),
            "boxes": np.zeros((size, regions, 4), np.float32),
            "object_ids": np.full((size, regions), IGNORE, np.int64),
            "object_scores": np.zeros((size, regions), np.float32),
            "attribute_ids": np.full((size, regions), IGNORE, np.int64),
            "attribute_scores": np.zeros((size, regions), np.float32),
            "region_mask": np.zeros((size, regions), np.bool_),
        }
        for place, row in enumerate(rows):
            record = self.record(row)
            here = np.s_[place, : len(record.boxes)]
            for name in arrays.keys() - {"boxes", "region_mask"}:
                arrays[name][here] = getattr(record, name)
            sides = np.array([record.width, record.height] * 2, np.float32)
            arrays["boxes"][here] = record.boxes / sides
            arrays["region_mask"][here] = True
        return arrays

    def _strays(self, chances: np.ndarray) -> np.ndarray:
        """float16 [B, D, F]: single regions, read alone, since features end the payload of an image."""
        size, count, width = len(chances), chances.shape[1] // 2, self.shards.index.feature_width
        rows = (chances[:, :count] * self.num_images).astype(np.int64)
        strays = np.zeros((size, count, width), np.float16)
        for place in np.ndindex(size, count):
            strays[place] = self._one_region(int(rows[place]), float(chances[place[0], count + place[1]]))
        return strays

    def _one_region(self, row: int, chance: float) -> np.ndarray:
        """float16 [F]: the region of an image that a chance in [0, 1) falls on."""
        shards, size = self.shards, 2 * self.shards.index.feature_width
        regions = int(shards.region_counts[row])
        start = int(shards.offsets[row] + shards.lengths[row]) - size * (regions - int(chance * regions))
        data = os.pread(self._files[shards.shard_of[row]], size, start)
        if len(data) != size:
            raise ShardError(f"{shards.where(row)}: the file ends before its features do; {self._mend()}")
        return np.frombuffer(data, np.float16)
