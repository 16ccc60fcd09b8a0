"""Shard sets on disk: opened with a check of everything but the tars' contents, and read image by image.

N images, P pairs, K hard negatives of an image, F feature width.
"""

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from msp_ds.config import from_json
from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.index_checks import check_index, is_within
from msp_ds.data.format.questions import Questions, load_questions
from msp_ds.data.format.set_layout import SetIndex
from msp_ds.data.format.text import WordPieces, build_vocabulary_tables, load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.errors import InputError, ShardError
from msp_ds.records import RegionRecord, VocabularyTables
from msp_ds.storage.array_files import load_array, load_arrays
from msp_ds.storage.checksums import crc32, sha256_of_file
from msp_ds.storage.file_kinds import HEAD_BYTES, failed_download, other_kind, read_head
from msp_ds.storage.small_files import is_plain_name, parse_json, read_small_bytes, reason

_LARGEST_INDEX = 4 << 30
"""Bytes; an image takes 60."""
ADDRESS_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):")
"""The beginning of an address, its scheme as group 1."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The texts of a set, each with its image; the columns of its pair table."""

    keys: np.ndarray
    """int64 [P]: the key of the pair, from which its random numbers and its place in the order follow."""
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
    """A set whose index, file sizes and tables have been checked."""

    path: Path
    index: SetIndex
    index_sha256: str
    """sha256 of index.json, by which a run identifies its data."""
    keys: tuple[str, ...]
    """Canonical image ids, one per row."""
    shard_of: np.ndarray
    """int32 [N]: which of shard_paths holds the image."""
    offsets: np.ndarray
    """int64 [N]: start of the image's payload in its tar, bytes."""
    lengths: np.ndarray
    """int64 [N]: bytes of the payload."""
    crc32: np.ndarray
    """uint32 [N]: crc32 of the payload."""
    region_counts: np.ndarray
    """int32 [N]: regions of the image."""
    pairs: Pairs
    hard_negatives: np.ndarray | None
    """int32 [N, K]: rows of similar images, nearest first, -1 beyond the last; None in sets without a list."""
    feature_mean: np.ndarray
    """float32 [F]: mean region feature of the set."""
    comes_by_block: bool
    """Whether its tars are fetched while the run trains, instead of being on this machine."""
    questions: Questions | None = None
    """The questions of a benchmark; None in sets of pre-training."""

    @property
    def shard_paths(self) -> tuple[Path, ...]:
        """The tars, in the order of shard_of."""
        return tuple(self.path / shard.name for shard in self.index.shards)

    @property
    def vocab_path(self) -> Path:
        """The file of word pieces."""
        return self.path / layout.VOCAB_NAME

    @property
    def objects_path(self) -> Path:
        """The file of object labels."""
        return self.path / layout.OBJECTS_NAME

    @property
    def attributes_path(self) -> Path:
        """The file of attribute labels."""
        return self.path / layout.ATTRIBUTES_NAME

    def word_pieces(self) -> WordPieces:
        """Return the tokenizer of the set's texts."""
        return WordPieces(read_vocabulary(self.vocab_path))

    def tables(self) -> VocabularyTables:
        """Return the vocabulary tables that the tasks need."""
        objects, attributes = (
            load_labels(path, may_be_empty=True) for path in (self.objects_path, self.attributes_path)
        )
        return build_vocabulary_tables(self.word_pieces(), objects, attributes)

    def where(self, row: int) -> str:
        """Return the place of an image for messages: tar, key and offset."""
        return f"{self.shard_paths[self.shard_of[row]]}, {self.keys[row]} at byte {self.offsets[row]}"

    def fault(self, row: int, what: str) -> ShardError:
        """Return the error for an image that is broken, with its place and the command that fixes it."""
        return ShardError(f"{self.where(row)}: {what}; {layout.fix_command(self.index.stage, self.index.extractor)}")

    def unpack(self, row: int, payload: bytes) -> tuple[RegionRecord, list[str]]:
        """Return the image in a row and its texts from the bytes of its payload.

        Raises: ShardError that names tar, key and offset unless checksum, every field and the index agree.
        """
        if crc32(payload) != self.crc32[row]:
            raise self.fault(row, "the bytes do not match their checksum")
        record, texts = layout.unpack_record(payload, where=self.where(row))
        if record.image_id != self.keys[row]:
            raise self.fault(row, f"holds image {record.image_id}")
        shape, found = [int(self.region_counts[row]), self.index.feature_width], list(record.features.shape)
        if found != shape:
            raise self.fault(row, f"holds features {found} where the index says {shape}")
        return record, texts


def open_set(path: Path) -> ShardSet:
    """Open the set in folder `path` = `<shards>/<stage>/<split>`.

    Format and version, the size of every file, the sha256 of all but the tars, and the agreement of the tables are
    checked. The payloads are not read: `read_record` checks one, `verify_set` all of them.

    Raises: ShardError that names the file and the command that fixes it.
    """
    index, index_sha256 = read_index(path)
    try:
        with ThreadPoolExecutor(1) as pool:
            faults = pool.submit(lambda: list(file_faults(index, path)))
            try:
                return assemble_set(index, path=path, index_sha256=index_sha256)  # takes as long as the sums
            finally:
                for fault in faults.result():  # clearer than the error of loading such a file
                    raise fault
    except (ValueError, OSError) as error:
        raise ShardError(f"{error}; {layout.fix_command(index.stage, index.extractor)}") from None


def read_index(path: Path) -> tuple[SetIndex, str]:
    """Return the index of the set in folder `path`, and its sha256.

    Raises: ShardError that ends with the fix_command when there is none of this format and version.
    """
    data = _read_index_bytes(path)
    where, fix = str(path / layout.INDEX_NAME), layout.fix_command(path.parent.name)
    return parse_index(data, where=where, fix=fix), hashlib.sha256(data).hexdigest()


def file_faults(index: SetIndex, path: Path) -> Iterator[ShardError]:
    """Yield an error for each file that is missing or differs from the index in size or, except tars, in sha256."""
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
    """Return the set of an index, its tables loaded and checked against each other; the tars are not opened.

    Raises: ShardError that names the disagreement.
    """
    try:
        check_index(index, path)
        counts = [len(shard.keys) for shard in index.shards]
        return ShardSet(
            path=path,
            index=index,
            index_sha256=index_sha256,
            keys=tuple(chain.from_iterable(shard.keys for shard in index.shards)),
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
    except OverflowError:
        raise _fault(path / layout.INDEX_NAME, "holds a number beyond its range") from None
    except (OSError, EOFError, ValueError) as error:
        raise ShardError(str(error)) from None


def read_record(shards: ShardSet, row: int) -> tuple[RegionRecord, list[str]]:
    """Read the image in a row of the set, and its texts. Raises: ShardError as `ShardSet.unpack`."""
    with shards.shard_paths[shards.shard_of[row]].open("rb") as file:
        file.seek(int(shards.offsets[row]))
        return shards.unpack(row, file.read(int(shards.lengths[row])))


def _read_index_bytes(path: Path) -> bytes:
    stage = path.parent.name
    if ADDRESS_SCHEME.match(str(path)) and not path.exists():
        raise ShardError(
            f"{path} is not a folder; train reads shards from folders and from https://, s3:// and gs:// addresses, "
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
        if path.name == "val" and (train := path.with_name("train")).is_dir():
            fix += f" --holdout N; or take the training set, --shards {train}"
        of_stage = f"for stage {stage} " if layout.is_set_name(stage) else ""
        raise ShardError(f"no shards {of_stage}in {path}; write them with: {fix}") from None
    except OSError as error:
        raise ShardError(
            f"{path / layout.INDEX_NAME} cannot be read ({reason(error)}); {layout.fix_command(stage)}"
        ) from None


def parse_index(data: bytes, *, where: str, fix: str) -> SetIndex:
    """Return the index in the bytes of an index.json.

    Raises: ShardError, which starts with `where` and ends with `fix`, when it is not valid JSON, of another format or
    version, or ill-typed.
    """
    if found_kind := other_kind(data[:HEAD_BYTES]):
        remedy = fix if "://" in where else found_kind[1]  # fetching an address again does not help
        raise ShardError(f"{where} is {found_kind[0]}, but should be the index of a shard set; {remedy}")
    try:
        value = parse_json(data)
    except ValueError as error:
        raise ShardError(f"{where} is not valid JSON ({error}); {fix}") from None
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
        yield _fault(path / layout.INDEX_NAME, f"lists {name!r}, which is not a plain file name")
    elif not (path / name).is_file():
        yield _fault(path / name, "is missing")
    elif (found := (path / name).stat().st_size) != size:
        instead = failed_download(read_head(path / name) or b"")
        what = f": it is {instead[0]}; {instead[1]}" if instead else ""
        yield _fault(path / name, f"has {found} bytes instead of {size}{what}")


def _comes_by_block(path: Path) -> bool:
    return (path / layout.BY_BLOCK_NAME).is_file()


def _column(index: SetIndex, name: str, dtype: type[np.generic]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(getattr(shard, name) for shard in index.shards), dtype=dtype)


def _load_pairs(index: SetIndex, path: Path) -> Pairs:
    arrays = load_arrays(path, list(layout.PAIR_TYPES), what="the pair table")
    found = {name: str(array.dtype) for name, array in arrays.items()}
    if found != layout.PAIR_TYPES:
        raise _fault(path, f"holds {found} instead of {layout.PAIR_TYPES}")
    pairs = Pairs(**arrays)
    count = index.num_pairs
    ends = pairs.offsets
    if not len(pairs.keys) == len(pairs.image_rows) == len(ends) - 1 == count or count == 0:
        raise _fault(path, f"does not hold {count} pairs")
    if ends[0] != 0 or (np.diff(ends) < 2).any() or (np.diff(ends) > index.max_tokens).any():
        raise _fault(path, "has a text of too few or too many pieces")
    if not ends[-1] == len(pairs.token_ids) == len(pairs.word_positions):
        raise _fault(path, "has offsets that do not fit its pieces")
    if not (is_within(pairs.image_rows, 0, index.num_images) and is_within(pairs.token_ids, 0, index.vocab_size)):
        raise _fault(path, "names an image or a word piece that does not exist")
    return pairs


def _load_hard_negatives(index: SetIndex, path: Path) -> np.ndarray | None:
    if path.name not in index.files:
        return None
    rows = load_arrays(path, ["rows"], what="the table of hard negatives")["rows"]
    if rows.dtype != np.int32 or rows.ndim != 2 or len(rows) != index.num_images or not is_within(rows, -1, len(rows)):
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
