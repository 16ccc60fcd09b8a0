"""Shard sets as they lie on disk: opened with a quick check of all but the tars' contents, read by row, verified.

N images, P pairs, K hard negatives of an image, F feature width.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from msp_ds.config import from_json
from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.index_checks import check_index
from msp_ds.data.format.questions import Questions, load_questions
from msp_ds.data.format.set_layout import SetIndex
from msp_ds.data.format.text import WordPieces, build_vocabulary_tables, load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.errors import InputError, ShardError
from msp_ds.records import RegionRecord, VocabularyTables
from msp_ds.storage.array_files import load_array, load_arrays
from msp_ds.storage.checksums import sha256_of_file
from msp_ds.storage.file_kinds import HEAD_BYTES, failed_download, other_kind, read_head
from msp_ds.storage.small_files import is_plain_name, parse_json, read_small_bytes, reason

_LARGEST_INDEX = 4 << 30
"""Bytes: 60 an image."""
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The texts of a set, each with its image."""

    keys: np.ndarray
    """int64 [P]: the pair's own key, for chance and order."""
    image_rows: np.ndarray
    """int32 [P]: row of the pair's image."""
    offsets: np.ndarray
    """int64 [P + 1]: pair p has token_ids[offsets[p] : offsets[p + 1]]."""
    token_ids: np.ndarray
    """int32 [offsets[-1]]: [CLS] pieces [SEP]."""
    word_positions: np.ndarray
    """int16 [offsets[-1]]."""


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """A set whose index, sizes and small files were found in order."""

    path: Path
    index: SetIndex
    index_sha256: str
    """Of index.json: names the data in a run's state."""
    keys: tuple[str, ...]
    """Canonical image ids, row by row."""
    shard_of: np.ndarray
    """int32 [N]: which of shard_paths holds the image."""
    offsets: np.ndarray
    """int64 [N]: where the image's payload starts in its tar, bytes."""
    lengths: np.ndarray
    """int64 [N]: bytes of the payload."""
    crc32: np.ndarray
    """uint32 [N]: of the payload."""
    region_counts: np.ndarray
    """int32 [N]: regions of the image."""
    pairs: Pairs
    hard_negatives: np.ndarray | None
    """int32 [N, K]: rows of similar images, nearest first, -1 beyond the last; None where no list was given."""
    feature_mean: np.ndarray
    """float32 [F]: mean region feature of the set."""
    comes_by_block: bool
    """Whether its tars come to this machine while it trains, instead of lying here."""
    questions: Questions | None = None
    """What a benchmark asks of the pairs; None in sets of pre-training."""

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """The tars, in the order that shard_of counts."""
        return tuple(self.path / shard.name for shard in self.index.shards)

    @property
    def vocab_path(self) -> Path:
        """The word pieces."""
        return self.path / layout.VOCAB_NAME

    @property
    def objects_path(self) -> Path:
        """The object labels."""
        return self.path / layout.OBJECTS_NAME

    @property
    def attributes_path(self) -> Path:
        """The attribute labels."""
        return self.path / layout.ATTRIBUTES_NAME

    def word_pieces(self) -> WordPieces:
        """What split the texts of the set."""
        return WordPieces(read_vocabulary(self.vocab_path))

    def tables(self) -> VocabularyTables:
        """What the tasks know of the words of the set."""
        objects, attributes = (
            load_labels(path, may_be_empty=True) for path in (self.objects_path, self.attributes_path)
        )
        return build_vocabulary_tables(self.word_pieces(), objects, attributes)

    def where(self, row: int) -> str:
        """The place of an image, for messages: tar, key and offset."""
        return f"{self.shard_paths[self.shard_of[row]]}, {self.keys[row]} at byte {self.offsets[row]}"


def open_set(path: Path) -> ShardSet:
    """The set in folder `path` = `<shards>/<stage>/<split>`.

    Checked are format and version, the size of every file, the sha256 of all but the tars, and that the tables agree
    with each other. The payloads are not read: `read_record` checks one, `verify_set` all of them.

    Raises: ShardError that names the file and the command that fixes it.
    """
    index, index_sha256 = read_index(path)
    try:
        with ThreadPoolExecutor(1) as pool:
            faults = pool.submit(lambda: list(file_faults(index, path)))
            try:
                return assemble_set(index, path=path, index_sha256=index_sha256)  # which takes as long as the sums
            finally:
                for fault in faults.result():  # says more than whatever came of loading such a file
                    raise fault
    except (ValueError, OSError) as error:
        raise ShardError(f"{error}; {layout.fix_command(index.stage, index.extractor)}") from None


def read_index(path: Path) -> tuple[SetIndex, str]:
    """The index of the set in folder `path`, and its sha256.

    Raises: ShardError with the fix_command command when there is none of this format and version.
    """
    data = _read_index_bytes(path)
    where, fix = str(path / layout.INDEX_NAME), layout.fix_command(path.parent.name)
    return parse_index(data, where=where, fix=fix), hashlib.sha256(data).hexdigest()


def file_faults(index: SetIndex, path: Path) -> Iterator[ShardError]:
    """Each file of a set that is missing, of another size or, the tars apart, of another sha256 than its index says."""
    for name in layout.NEEDED_FILES:
        if name not in index.files:
            yield _fault(path / layout.INDEX_NAME, f"does not list {name}")
    by_block = _comes_by_block(path)
    for shard in index.shards:
        if not by_block or not is_plain_name(shard.name):
            yield from _size_faults(path, shard.name, shard.bytes)
    wrong = {name: list(_size_faults(path, name, entry.bytes)) for name, entry in index.files.items()}
    whole = [name for name, faults in wrong.items() if not faults]
    with ThreadPoolExecutor(2) as pool:  # two are large: pairs and hard negatives
        for name, digest in zip(whole, pool.map(lambda name: sha256_of_file(path / name), whole), strict=True):
            if digest != index.files[name].sha256:
                wrong[name] = [_fault(path / name, "differs from what was written")]
    yield from chain.from_iterable(wrong.values())
    listed = index.files.get(layout.VOCAB_NAME)
    if listed is not None and listed.sha256 != index.vocabulary_sha256:
        yield _fault(path / layout.INDEX_NAME, "names another vocabulary than it lists")


def assemble_set(index: SetIndex, *, path: Path, index_sha256: str) -> ShardSet:
    """The set of an index, its tables loaded and found to agree with each other; the tars are not looked at.

    Raises: ShardError naming what does not agree.
    """
    try:
        return _assembled(index, path=path, index_sha256=index_sha256)
    except OverflowError:
        raise _fault(path / layout.INDEX_NAME, "holds a number beyond its range") from None
    except (OSError, EOFError, ValueError) as error:
        raise ShardError(str(error)) from None


def read_record(shards: ShardSet, row: int) -> tuple[RegionRecord, list[str]]:
    """The image in a row of the set, and its texts.

    Raises: ShardError naming tar, key and offset when the bytes differ from those that were written.
    """
    with shards.shard_paths[shards.shard_of[row]].open("rb") as file:
        file.seek(int(shards.offsets[row]))
        payload = file.read(int(shards.lengths[row]))
    where, fix = shards.where(row), layout.fix_command(shards.index.stage, shards.index.extractor)
    if zlib.crc32(payload) != shards.crc32[row]:
        raise ShardError(f"{where}: the bytes do not match their checksum; {fix}")
    record, texts = layout.unpack_record(payload, where=where)
    if record.image_id != shards.keys[row]:
        raise ShardError(f"{where}: holds image {record.image_id}; {fix}")
    return record, texts


def _read_index_bytes(path: Path) -> bytes:
    stage = path.parent.name
    if _SCHEME.match(str(path)) and not path.exists():
        raise ShardError(
            f"{path} is no folder; train reads shards from folders and from https://, s3:// and gs:// addresses, "
            "the other commands from folders, and none runs programs"
        )
    try:
        return read_small_bytes(path / layout.INDEX_NAME, most=_LARGEST_INDEX)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_dir():
            raise ShardError(f"{path} {layout.without_index(path)}") from None
        fix = layout.shard_command(stage)
        if path.name == "test" and stage in layout.ASKING_NAMES:
            fix += f" --recipe FILE --test-questions FILE; or take the held-out set, --shards {path.with_name('val')}"
        of_stage = f"for stage {stage} " if layout.is_set_name(stage) else ""
        raise ShardError(f"no shards {of_stage}in {path}; write them with: {fix}") from None
    except OSError as error:
        raise ShardError(
            f"{path / layout.INDEX_NAME} cannot be read ({reason(error)}); {layout.fix_command(stage)}"
        ) from None


def parse_index(data: bytes, *, where: str, fix: str) -> SetIndex:
    """The index in the bytes of an index.json.

    Raises: ShardError, from `where` to `fix`, when it is not valid JSON, of another format or version, or ill-typed.
    """
    if found_kind := other_kind(data[:HEAD_BYTES]):
        remedy = fix if "://" in where else found_kind[1]  # what an address answers is not helped by one more try
        raise ShardError(f"{where} is {found_kind[0]}, but should be the index of a shard set; {remedy}")
    try:
        value = parse_json(data)
    except ValueError as error:
        raise ShardError(f"{where} is no readable JSON ({error}); {fix}") from None
    found = (value.get("format"), value.get("version")) if isinstance(value, dict) else None
    if found != (layout.FORMAT, layout.VERSION):
        raise ShardError(f"{where} is not of format {layout.FORMAT!r} version {layout.VERSION}; {fix}")
    try:
        return from_json(SetIndex, value, where=where)
    except InputError as error:
        raise ShardError(f"{error}; {fix}") from None


def _fault(path: Path, what: str) -> ShardError:
    return ShardError(f"{path} {what}")


def _size_faults(path: Path, name: str, size: int) -> Iterator[ShardError]:
    if not is_plain_name(name):
        yield _fault(path / layout.INDEX_NAME, f"lists {name!r}, which is no plain file name")
    elif not (path / name).is_file():
        yield _fault(path / name, "is missing")
    elif (found := (path / name).stat().st_size) != size:
        instead = failed_download(read_head(path / name) or b"")
        what = f": it is {instead[0]}; {instead[1]}" if instead else ""
        yield _fault(path / name, f"has {found} bytes instead of {size}{what}")


def _assembled(index: SetIndex, *, path: Path, index_sha256: str) -> ShardSet:
    check_index(index, path)
    keys = tuple(chain.from_iterable(shard.keys for shard in index.shards))
    counts = [len(shard.keys) for shard in index.shards]
    return ShardSet(
        path=path,
        index=index,
        index_sha256=index_sha256,
        keys=keys,
        shard_of=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        offsets=_column(index, "offsets", np.int64),
        lengths=_column(index, "lengths", np.int64),
        crc32=_column(index, "crc32", np.uint32),
        region_counts=_column(index, "region_counts", np.int32),
        pairs=_load_pairs(index, path / layout.PAIRS_NAME),
        hard_negatives=_load_hard_negatives(index, path / layout.HARD_NEGATIVES_NAME),
        feature_mean=_load_feature_mean(index, path / layout.FEATURE_MEAN_NAME),
        comes_by_block=_comes_by_block(path),
        questions=_load_questions(index, path),
    )


def _comes_by_block(path: Path) -> bool:
    return (path / layout.BY_BLOCK_NAME).is_file()


def _column(index: SetIndex, name: str, dtype: type[np.generic]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(getattr(shard, name) for shard in index.shards), dtype=dtype)


_PAIR_TYPES = {
    "keys": "int64",
    "image_rows": "int32",
    "offsets": "int64",
    "token_ids": "int32",
    "word_positions": "int16",
}


def _load_pairs(index: SetIndex, path: Path) -> Pairs:
    arrays = load_arrays(path, list(_PAIR_TYPES), what="the pair table")
    found = {name: str(array.dtype) for name, array in arrays.items()}
    if found != _PAIR_TYPES:
        raise _fault(path, f"holds {found} instead of {_PAIR_TYPES}")
    pairs = Pairs(**arrays)
    count = index.num_pairs
    ends = pairs.offsets
    if not len(pairs.keys) == len(pairs.image_rows) == len(ends) - 1 == count or count == 0:
        raise _fault(path, f"does not hold {count} pairs")
    if ends[0] != 0 or (np.diff(ends) < 2).any() or (np.diff(ends) > index.max_tokens).any():
        raise _fault(path, "has a text of no or too many pieces")
    if not ends[-1] == len(pairs.token_ids) == len(pairs.word_positions):
        raise _fault(path, "has offsets that do not fit its pieces")
    if not (_within(pairs.image_rows, 0, index.num_images) and _within(pairs.token_ids, 0, index.vocab_size)):
        raise _fault(path, "names an image or a word piece that does not exist")
    return pairs


def _within(values: np.ndarray, lowest: int, end: int) -> bool:
    return values.size == 0 or bool(values.min() >= lowest and values.max() < end)


def _load_hard_negatives(index: SetIndex, path: Path) -> np.ndarray | None:
    if path.name not in index.files:
        return None
    rows = load_arrays(path, ["rows"], what="the table of hard negatives")["rows"]
    if rows.dtype != np.int32 or rows.ndim != 2 or len(rows) != index.num_images or not _within(rows, -1, len(rows)):
        raise _fault(path, f"does not hold rows of the {index.num_images} images")
    return rows


def _load_questions(index: SetIndex, path: Path) -> Questions | None:
    if layout.QUESTIONS_NAME not in index.files:
        return None
    if layout.ANSWERS_NAME not in index.files:
        raise _fault(path / layout.INDEX_NAME, f"does not list {layout.ANSWERS_NAME}")
    return load_questions(path, num_pairs=index.num_pairs, num_images=index.num_images)


def _load_feature_mean(index: SetIndex, path: Path) -> np.ndarray:
    mean = load_array(path, what="the mean of the set's features")
    if mean.dtype != np.float32 or mean.shape != (index.feature_width,):
        raise _fault(path, f"does not hold {index.feature_width} float32 numbers")
    return mean
