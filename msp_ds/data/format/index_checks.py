"""Checks that an index agrees with itself and with the files beside it, so that an edited index is refused."""

from itertools import chain
from pathlib import Path

import numpy as np

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.set_layout import SetIndex, ShardEntry
from msp_ds.data.format.text import load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.errors import ShardError


def check_index(index: SetIndex, path: Path) -> None:
    """Check an index against itself and the vocabularies in `path`, whose sha256 was checked before.

    Raises: ShardError that names the index and the disagreement.
    """
    where = path / layout.INDEX_NAME
    for shard in index.shards:
        check_entry(shard, index, path)
    _check_words(index, path)
    keys = list(chain.from_iterable(shard.keys for shard in index.shards))
    if not len(keys) == len(set(keys)) == index.num_images:
        raise ShardError(f"{where} does not list {index.num_images} different images")
    kept = index.texts.get("kept", index.num_pairs)
    if kept != index.num_pairs:
        raise ShardError(f"{where} says that {kept} texts were kept, but counts {index.num_pairs} pairs")
    if max(max(shard.region_counts) for shard in index.shards) != index.num_regions:
        raise ShardError(f"{where} lists no image of {index.num_regions} regions, the most it speaks of")


def check_entry(shard: ShardEntry, index: SetIndex, path: Path) -> None:
    """Require that the payloads of a tar follow each other within it and are long enough for their features.

    Raises: ShardError that names the index of the set in `path`.
    """
    where = path / layout.INDEX_NAME
    columns = (shard.keys, shard.offsets, shard.lengths, shard.crc32, shard.region_counts)
    if len({len(column) for column in columns}) != 1 or not len(shard.keys):
        raise ShardError(f"{where} has lists of different or no length for {shard.name}")
    if not "".join(shard.keys).isprintable():
        raise ShardError(f"{where} lists image ids of {shard.name} that no image can have")
    starts, lengths, counts = (
        np.array(column, dtype=np.int64) for column in (shard.offsets, shard.lengths, shard.region_counts)
    )
    ends = starts + lengths
    if starts[0] < 0 or (lengths <= 0).any() or (starts[1:] < ends[:-1]).any() or ends[-1] > shard.bytes:
        raise ShardError(f"{where} places images of {shard.name} outside it or over each other")
    most = lengths.max() // (layout.HALF_BYTES * max(1, index.feature_width))
    if (counts < 0).any() or counts.max() > min(most, index.num_regions):
        raise ShardError(f"{where} counts regions of {shard.name} that do not fit its images")


def is_within(values: np.ndarray, lowest: int, end: int) -> bool:
    """Return whether all numbers of an array are from `lowest` to `end` - 1."""
    return values.size == 0 or bool(values.min() >= lowest and values.max() < end)


def _check_words(index: SetIndex, path: Path) -> None:
    """Compare the counts of the index with the vocabularies."""
    found = {
        "vocab_size": len(read_vocabulary(path / layout.VOCAB_NAME).pieces),
        "num_objects": len(load_labels(path / layout.OBJECTS_NAME, may_be_empty=True)),
        "num_attributes": len(load_labels(path / layout.ATTRIBUTES_NAME, may_be_empty=True)),
    }
    for name, count in found.items():
        if (listed := getattr(index, name)) != count:
            raise ShardError(f"{path / layout.INDEX_NAME} says {name} {listed}, the file beside it has {count}")
