"""The names and fields of a shard set: a self-contained folder `<shards>/<stage>/<split>/`.

The record of an image is a msgpack map, the member `<image_id>.mp` of an uncompressed tar. Numbers are little-endian,
in C order.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import msgpack
import numpy as np

from msp_ds.config import to_json
from msp_ds.data.format.faults import SkippedRow
from msp_ds.data.format.region_checks import has_only_finite
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import ShardError
from msp_ds.records import RegionRecord
from msp_ds.storage.checksums import FileEntry
from msp_ds.storage.file_kinds import read_head
from msp_ds.storage.folder_search import folders_with

FORMAT = "msp-ds shards"
VERSION = 2

StageName = Literal["token", "phrase", "sentence"]
BenchmarkName = Literal["vqa", "gqa", "nlvr2", "retrieval"]
SetName = Literal["token", "phrase", "sentence", "vqa", "gqa", "nlvr2", "retrieval"]
"""The use of a set: a stage of pre-training, or a benchmark."""
Split = Literal["train", "val", "test"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
BENCHMARK_NAMES: tuple[BenchmarkName, ...] = get_args(BenchmarkName)
ASKING_NAMES: tuple[BenchmarkName, ...] = ("vqa", "gqa", "nlvr2")
"""Benchmarks that have files of questions; retrieval uses the captions."""

INDEX_NAME = "index.json"
PAIRS_NAME = "pairs.npz"
HARD_NEGATIVES_NAME = "hard_negatives.npz"
FEATURE_MEAN_NAME = "feature_mean.npy"
VOCAB_NAME = "vocab.txt"
OBJECTS_NAME = "objects_vocab.txt"
ATTRIBUTES_NAME = "attributes_vocab.txt"
BY_BLOCK_NAME = "by_block.json"
"""In a set whose tars are fetched while the run trains: their address (remote/blocks.py)."""
QUESTIONS_NAME = "questions.npz"
ANSWERS_NAME = "answers.json"
NEEDED_FILES = (PAIRS_NAME, FEATURE_MEAN_NAME, VOCAB_NAME, OBJECTS_NAME, ATTRIBUTES_NAME)
MEMBER_ENDING = "mp"
HALF_BYTES = 2
"""Bytes of a float16."""
_SETS_NAMED = 6
"""Sets of a folder that a message names."""

PAIR_TYPES = {
    "keys": "int64",
    "image_rows": "int32",
    "offsets": "int64",
    "token_ids": "int32",
    "word_positions": "int16",
}
"""Column of the pair table -> its type."""

# In the order of the record; the features come last, so that their bytes end the payload and can be read alone.
ARRAYS = {
    "boxes": "<f4",
    "object_ids": "<i2",
    "object_scores": "<f4",
    "attribute_ids": "<i2",
    "attribute_scores": "<f4",
    "features": "<f2",
}
"""Field of RegionRecord -> its type on disk."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A tar of the set in the index; the lists have one entry per image."""

    name: str
    bytes: int
    sha256: str
    keys: tuple[str, ...]
    offsets: tuple[int, ...]
    """Start of the msgpack payload within the tar, bytes."""
    lengths: tuple[int, ...]
    """Bytes of the payload."""
    crc32: tuple[int, ...]
    """crc32 of the payload."""
    region_counts: tuple[int, ...]
    """Regions of the image: its features are the payload's last region_counts * feature_width * 2 bytes."""


@dataclass(frozen=True, kw_only=True)
class SetIndex:
    """index.json."""

    format: str
    version: int
    stage: SetName
    split: Split
    num_images: int
    num_pairs: int
    num_regions: int
    """Regions of the image that has the most."""
    feature_width: int
    max_tokens: int
    num_objects: int
    num_attributes: int
    vocab_size: int
    vocabulary_sha256: str
    extractor: str
    """The recipe's text about the detector that computed the features."""
    preset: str | None
    """The preset that the recipe suggests."""
    texts: dict[str, int]
    """How many texts were kept, dropped and truncated."""
    files: dict[str, FileEntry]
    shards: tuple[ShardEntry, ...]
    has_labels: bool = True
    """Whether every source of regions had the detector's labels."""
    skipped: tuple[SkippedRow, ...] = ()
    """Rows of the sources that could not be used, of all splits."""
    feature_types: tuple[str, ...] = ()
    """Types of the features in the TSV sources; in the tars all are float16."""
    detector: DetectorRecord | None = None
    """The record of what computed the features; None where the sources name none."""

    @property
    def answers_sha256(self) -> str | None:
        """The sha256 of the answers that a benchmark chooses from; None in sets of pre-training."""
        return self.files[ANSWERS_NAME].sha256 if ANSWERS_NAME in self.files else None

    def to_bytes(self) -> bytes:
        """Return the content of index.json; an unknown detector has no key, as in sets of earlier versions."""
        value = to_json(self)
        if self.detector is None:
            del value["detector"]
        return (json.dumps(value) + "\n").encode()


def tar_name(number: int) -> str:
    """Return the name of the tar with this number."""
    return f"{number:06d}.tar"


DEMO_EXTRACTOR = "msp-ds make-demo-data"
"""The extractor in the demo's recipe, which marks a set that `msp-ds shard` writes without flags."""


def is_set_name(name: str) -> bool:
    """Return whether a name is that of a stage or a benchmark."""
    return name in get_args(SetName)


def sets_below(path: Path) -> list[Path]:
    """Return `path` if it is a set, else all sets below it in the order of their paths."""
    return [path] if os.path.exists(path / INDEX_NAME) else sorted(folders_with(INDEX_NAME, path))


def without_index(path: Path) -> str:
    """Describe a folder without an index, and how to fix it."""
    below = ((found, read_head(found / INDEX_NAME)) for found in sets_below(path))
    # Other programs write an index.json too.
    sets = [str(found) for found, head in below if head and FORMAT.encode() in head]
    if sets:
        others = f" and {len(sets) - _SETS_NAMED} more" if len(sets) > _SETS_NAMED else ""
        return f"is not a shard set itself, but holds some; name one of them: {', '.join(sets[:_SETS_NAMED])}{others}"
    if is_set_name(path.parent.name):
        return f"has no {INDEX_NAME}; {fix_command(path.parent.name)}"
    return (
        f"is not a shard set of msp-ds, since it has no {INDEX_NAME}; write one with: {shard_command('')} --recipe FILE"
    )


def shard_command(stage: str) -> str:
    """Return the command that writes the sets of a stage or benchmark; STAGE stands for an unknown one."""
    kind = "--task" if stage in BENCHMARK_NAMES else "--stage"
    return f"msp-ds shard {kind} {stage if is_set_name(stage) else 'STAGE'}"


def fix_command(stage: str, extractor: str = "") -> str:
    """Return the command that repairs a set of a stage; `extractor` is the index's, empty if it cannot be read."""
    command = f"write it again with: {shard_command(stage)}"
    return command if extractor == DEMO_EXTRACTOR else f"{command} --recipe FILE, or the flags it was written with"


def pack_record(record: RegionRecord, texts: list[str]) -> bytes:
    """Return the msgpack payload of an image and its texts."""
    num_regions, feature_width = record.features.shape
    head = {name: getattr(record, name) for name in _SCALARS}
    sizes = {"num_regions": num_regions, "feature_width": feature_width, "texts": texts}
    arrays = {
        name: np.ascontiguousarray(getattr(record, name), dtype=dtype).tobytes() for name, dtype in ARRAYS.items()
    }
    payload: bytes = msgpack.packb(head | sizes | arrays)
    return payload


_SCALARS = {"image_id": str, "source": str, "height": int, "width": int}
_HEAD_TYPES = {**_SCALARS, "num_regions": int, "feature_width": int, "texts": list}


def unpack_record(payload: bytes, *, where: str) -> tuple[RegionRecord, list[str]]:
    """Return the image and the texts in a payload.

    Raises: ShardError, which starts with `where`, for broken msgpack, a missing or ill-typed field, an array whose
    length does not follow from num_regions and feature_width, and features that are not finite.
    """
    try:
        value = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException) as error:
        raise ShardError(f"{where}: is not msgpack ({error or type(error).__name__})") from None
    if not isinstance(value, dict) or list(value) != [*_HEAD_TYPES, *ARRAYS]:
        raise ShardError(f"{where}: does not hold the fields {', '.join([*_HEAD_TYPES, *ARRAYS])}")
    for name, kind in _HEAD_TYPES.items():
        if type(value[name]) is not kind:
            raise ShardError(f"{where}: {name} should be {kind.__name__}, but is {value[name]!r}")
    num_regions, width = value["num_regions"], value["feature_width"]
    shapes = {"boxes": (num_regions, 4), "features": (num_regions, width)}
    arrays: dict[str, Any] = {
        name: _unpack_array(value[name], dtype, shapes.get(name, (num_regions,)), where=f"{where}: {name}")
        for name, dtype in ARRAYS.items()
    }
    if not has_only_finite(arrays["features"]):
        raise ShardError(f"{where}: a feature is not finite")
    return RegionRecord(**{name: value[name] for name in _SCALARS}, **arrays), value["texts"]


_HEAD_FIELDS = [*_HEAD_TYPES, *(name for name in ARRAYS if name != "features")]
_HEAD_KINDS = (*_HEAD_TYPES.values(), *(bytes for _ in range(len(ARRAYS) - 1)))
_FEATURES_KEY = msgpack.packb("features")
_MAP_OF = 0x80
"""msgpack's first byte of a map of up to 15 entries, less their number."""


def unpack_head(head: bytearray, *, num_regions: int, feature_width: int) -> dict[str, Any] | None:
    """Return the map in a payload without the bytes of its features: numbers, texts, arrays as bytes.

    The result is None unless everything is as `pack_record` writes it for an image of that many regions; then
    `unpack_record` of the whole payload finds the fault, if there is one. The first byte of `head` is changed.
    """
    ending = _FEATURES_KEY + _bytes_header(num_regions * feature_width * HALF_BYTES)
    if not head.endswith(ending) or head[0] != _MAP_OF + len(_HEAD_FIELDS) + 1:
        return None
    head[0] -= 1  # a map without its last entry, which msgpack's C code unpacks in one call
    try:
        value = msgpack.unpackb(memoryview(head)[: -len(ending)])
    except (ValueError, msgpack.UnpackException):
        return None
    if list(value) != _HEAD_FIELDS or tuple(map(type, value.values())) != _HEAD_KINDS:
        return None
    fits = value["num_regions"] == num_regions and value["feature_width"] == feature_width
    return value if fits and all(len(value[name]) == size * num_regions for name, size in _REGION_BYTES) else None


_REGION_BYTES = [(name, np.dtype(ARRAYS[name]).itemsize * (4 if name == "boxes" else 1)) for name in list(ARRAYS)[:-1]]
"""Field -> bytes per region, without the features."""


def _bytes_header(size: int) -> bytes:
    """The header that msgpack writes before `size` bytes."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def _unpack_array(data: Any, dtype: str, shape: tuple[int, ...], *, where: str) -> np.ndarray:
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not isinstance(data, bytes) or len(data) != wanted:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise ShardError(f"{where} holds {found} instead of {wanted} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)
