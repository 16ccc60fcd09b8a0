"""The tables of a set, joined from its shards without holding them in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from msp_ds.data.format.set_tables import Column, join_pairs, npz_bytes, write_npz

FIRST = {
    "keys": np.array([11, 12, 13]),
    "image_rows": np.array([0, 0, 1], np.int32),
    "offsets": np.array([0, 2, 3, 5]),
    "token_ids": np.array([1, 2, 3, 4, 5], np.int32),
    "word_positions": np.array([1, 1, 2, 1, 2], np.int16),
}
SECOND = {
    "keys": np.array([21]),
    "image_rows": np.array([0], np.int32),
    "offsets": np.array([0, 2]),
    "token_ids": np.array([6, 7], np.int32),
    "word_positions": np.array([3, 4], np.int16),
}
JOINED = {
    "keys": np.array([11, 12, 13, 21]),
    # The first shard has two images.
    "image_rows": np.array([0, 0, 1, 2], np.int32),
    "offsets": np.array([0, 2, 3, 5, 7]),
    "token_ids": np.array([1, 2, 3, 4, 5, 6, 7], np.int32),
    "word_positions": np.array([1, 1, 2, 1, 2, 3, 4], np.int16),
}


def test_joined_tables_count_images_and_tokens_on() -> None:
    for name, column in join_pairs([FIRST, SECOND], [2, 1]).items():
        whole = np.concatenate(list(column.blocks))
        assert (whole.tolist(), whole.dtype) == (JOINED[name].tolist(), JOINED[name].dtype)
        assert column.length == len(whole)


def test_blocks_make_the_same_bytes_as_whole_arrays(tmp_path: Path) -> None:
    entry = write_npz(tmp_path / "pairs.npz", join_pairs([FIRST, SECOND], [2, 1]))
    data = (tmp_path / "pairs.npz").read_bytes()
    assert data == npz_bytes(JOINED)
    assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("shape", [(5, 3), (5, 1), (5, 0), (0, 3)])
def test_rows_of_any_width_make_the_same_bytes(tmp_path: Path, shape: tuple[int, int]) -> None:
    rows = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    write_npz(tmp_path / "rows.npz", {"rows": Column(len(rows), [rows[:2], rows[2:]])})
    assert (tmp_path / "rows.npz").read_bytes() == npz_bytes({"rows": rows})


def test_one_block_at_a_time_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    sizes = []

    def blocks() -> Iterator[np.ndarray]:
        for _ in range(3):
            sizes.append(path.stat().st_size)
            yield np.zeros(1 << 16)

    write_npz(path, {"some": Column(3 << 16, blocks())})
    # Each block of 512 KiB is in the file before the next is made.
    assert [size >> 19 for size in sizes] == [0, 1, 2]
