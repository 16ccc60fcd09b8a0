"""Complete a shard set from its finished shards: tables and index, then the whole folder into place at once."""

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.faults import OnError, SkippedRow
from msp_ds.data.format.set_layout import SetIndex, SetName, Split
from msp_ds.data.format.set_tables import Column, join_pairs, npy_bytes, npz_bytes, require_one_width, write_npz
from msp_ds.data.format.text import Label, WordPieces, parse_labels
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.hard_negative_list import HardNegativeList, row_blocks_within
from msp_ds.preparation.texts.answer_vocabulary import answers_data
from msp_ds.preparation.texts.benchmark_questions import QuestionBook
from msp_ds.preparation.writing.overwrite_guard import require_replaceable_set, work_path
from msp_ds.preparation.writing.shard_parts import PART_ENDING, ShardPart, ShardWriter
from msp_ds.records import RegionRecord
from msp_ds.storage.atomic_files import followed, replace_folder, sync_folder, write_durably
from msp_ds.storage.checksums import FileEntry


@dataclass(frozen=True, kw_only=True)
class SetPlan:
    """Properties that all images of a set share."""

    stage: SetName
    split: Split
    pieces: WordPieces
    objects_data: bytes
    """The object vocabulary, byte for byte."""
    attributes_data: bytes
    """The attribute vocabulary, byte for byte."""
    max_tokens: int
    """Pieces of a text, [CLS] and [SEP] included; longer texts are truncated."""
    extractor: str = ""
    detector: DetectorRecord | None = None
    """The record that all sources of regions have; None where they have none."""
    preset: str | None = None
    hard_negatives: HardNegativeList | None = None
    questions: QuestionBook | None = None
    """The questions of a benchmark set."""
    feature_types: tuple[str, ...] = ()
    """Types of the features in the TSV sources."""
    has_labels: bool = True
    """Whether every source of regions has the detector's labels."""
    on_error: OnError = "fail"
    """Policy for unusable rows of regions."""
    images_per_shard: int = 1000
    bytes_per_shard: int = 2 * 10**9
    """Bytes of the source rows, of which a tar needs 0.38 for float32 in base64. A tar ends at the first limit."""

    @property
    def objects(self) -> tuple[Label, ...]:
        """The object labels."""
        return parse_labels(self.objects_data, name=layout.OBJECTS_NAME, may_be_empty=True)

    @property
    def attributes(self) -> tuple[Label, ...]:
        """The attribute labels."""
        return parse_labels(self.attributes_data, name=layout.ATTRIBUTES_NAME, may_be_empty=True)


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """A summary of a written set."""

    path: Path
    num_images: int
    num_pairs: int
    num_shards: int
    num_bytes: int
    """Bytes of the tars."""
    texts: dict[str, int]
    """Counts of texts that were kept, dropped and truncated."""
    file_names: frozenset[str]
    """Names of all files of the set."""
    features: str = ""
    """Width and type of the features, where they were inferred from a TSV's bytes."""

    def describe(self) -> str:
        """Return one line: `shards/token/train: 1800 images, 1800 texts, 2 tars, 269 MB; truncated 12, ...`."""
        size = (
            f"{self.num_images} images, {self.num_pairs} texts, {self.num_shards} tars, {self.num_bytes / 1e6:.0f} MB"
        )
        counts = [f"{name.replace('_', ' ')} {count}" for name, count in self.texts.items() if count and name != "kept"]
        return f"{self.path}: {size}" + ("; " + ", ".join(counts) if counts else "")


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Yield the folder in which a set is prepared.

    After an InputError it is deleted. After any other interruption the finished shards are kept for the next run.
    """
    folder = work_path(target)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except InputError:
        shutil.rmtree(folder)
        raise
    finally:
        if folder.exists() and not num_finished(folder):
            shutil.rmtree(folder)


def num_finished(folder: Path) -> int:
    """Return the number of finished shards in a work folder."""
    return len(list(folder.glob(f"*{PART_ENDING}")))


def of_one_width(parts: Iterable[ShardPart]) -> Iterator[ShardPart]:
    """Yield the parts. Raises: InputError for a part with features of another width than those before."""
    before = 0
    for part in parts:
        if part.num_images:
            width = len(part.feature_sum)
            require_one_width(width, before or width, where=f"image {part.facts.entry.keys[0]}")
            before = width
        yield part


def finish_set(
    folder: Path,
    *,
    target: Path,
    plan: SetPlan,
    parts: Sequence[ShardPart],
    counts: dict[str, int],
    skipped: Sequence[SkippedRow] = (),
) -> SetReport:
    """Write the tables of a set and, last, its index into the work folder that holds its tars.

    Args:
        parts: of all shards in order.
        counts: are added to those of the shards.
        skipped: unusable rows of the sources, of all splits.

    Raises: InputError when no image is left.
    """
    kept = [part for part in parts if part.num_images]
    if not kept:
        raise InputError(f"no image with a text is left for {target}; check the image ids and --holdout")
    pairs = join_pairs([part.pairs for part in kept], [part.num_images for part in kept])
    kept_texts = {"kept": pairs["keys"].length, "truncated": sum(part.facts.num_truncated for part in kept)}
    texts = kept_texts | _summed(counts, parts) | ({"rows_skipped": len(skipped)} if skipped else {})
    index = dataclasses.replace(
        _index(plan, kept, texts=texts, files=_write_tables(folder, plan, kept, pairs)), skipped=tuple(skipped)
    )
    write_durably(folder / layout.INDEX_NAME, index.to_bytes())
    sync_folder(folder)
    types = " and ".join(index.feature_types)
    return SetReport(
        path=target,
        num_images=index.num_images,
        num_pairs=index.num_pairs,
        num_shards=len(index.shards),
        num_bytes=sum(shard.bytes for shard in index.shards),
        texts=index.texts,
        file_names=frozenset({layout.INDEX_NAME, *index.files, *(shard.name for shard in index.shards)}),
        features=f"{index.feature_width} numbers a region, read as {types}" if types else "",
    )


def commit_set(folder: Path, report: SetReport) -> None:
    """Replace the old set, if any, by a finished one, without intermediate files.

    Raises: InputError when foreign files have appeared in the target.
    """
    require_replaceable_set(report.path)
    for path in folder.iterdir():
        if path.name not in report.file_names:
            path.unlink()
    replace_folder(folder, followed(report.path))


def write_set(
    target: Path, *, plan: SetPlan, examples: Iterable[tuple[RegionRecord, list[str]]], counts: dict[str, int]
) -> SetReport:
    """Write one set of images with their texts, whole or not at all.

    Raises: InputError for an image that comes twice, features of another width, and an image without a text.
    """
    with work_folder(target) as folder:
        parts = list(of_one_width(_write_examples(folder, plan, examples)))
        report = finish_set(folder, target=target, plan=plan, parts=parts, counts=counts)
        commit_set(folder, report)
    return report


def _write_examples(
    folder: Path, plan: SetPlan, examples: Iterable[tuple[RegionRecord, list[str]]]
) -> Iterator[ShardPart]:
    """Yield the parts of the shards, written one after the other."""
    rest, seen = iter(examples), set[str]()
    for number in count():
        with ShardWriter(folder / layout.tar_name(number), pieces=plan.pieces, max_tokens=plan.max_tokens) as writer:
            for record, texts in rest:
                if record.image_id in seen:
                    raise InputError(f"{record.source}: image {record.image_id} comes twice; every image needs one row")
                if not texts:
                    raise InputError(f"{record.source}: image {record.image_id} has no text")
                seen.add(record.image_id)
                writer.add(record, texts)
                if writer.num_images >= plan.images_per_shard or writer.num_bytes >= plan.bytes_per_shard:
                    break
            if not writer.num_images:
                return
            yield writer.finish({})


def _summed(counts: dict[str, int], parts: Iterable[ShardPart]) -> dict[str, int]:
    """Return the counts plus those of all parts; zeros stay, which a sum of Counters would drop."""
    total = dict(counts)
    for part in parts:
        for name, number in part.facts.counts.items():
            total[name] = total.get(name, 0) + number
    return total


def _index(
    plan: SetPlan, parts: Sequence[ShardPart], *, texts: dict[str, int], files: dict[str, FileEntry]
) -> SetIndex:
    return SetIndex(
        format=layout.FORMAT,
        version=layout.VERSION,
        stage=plan.stage,
        split=plan.split,
        num_images=sum(part.num_images for part in parts),
        num_pairs=texts["kept"],
        num_regions=max(max(part.facts.entry.region_counts) for part in parts),
        feature_width=len(parts[0].feature_sum),
        max_tokens=plan.max_tokens,
        num_objects=len(plan.objects),
        num_attributes=len(plan.attributes),
        vocab_size=plan.pieces.size,
        vocabulary_sha256=plan.pieces.vocabulary.sha256,
        extractor=plan.extractor or (plan.detector.describe() if plan.detector else ""),
        preset=plan.preset,
        texts=texts,
        files=files,
        shards=tuple(part.facts.entry for part in parts),
        has_labels=plan.has_labels,
        feature_types=plan.feature_types,
        detector=plan.detector,
    )


def _write_tables(
    folder: Path, plan: SetPlan, parts: Sequence[ShardPart], pairs: dict[str, Column]
) -> dict[str, FileEntry]:
    """Write the files beside the tars. The mean is summed in the order of the shards, so threads do not change it."""
    total, num_regions = np.zeros(len(parts[0].feature_sum)), sum(part.facts.num_regions for part in parts)
    for part in parts:
        total += part.feature_sum
    contents: dict[str, bytes | memoryview] = {
        layout.FEATURE_MEAN_NAME: npy_bytes((total / num_regions).astype(np.float32)),
        layout.VOCAB_NAME: plan.pieces.vocabulary.data,
        layout.OBJECTS_NAME: plan.objects_data,
        layout.ATTRIBUTES_NAME: plan.attributes_data,
    }
    entries = {layout.PAIRS_NAME: write_npz(folder / layout.PAIRS_NAME, pairs)}
    entries |= {name: write_durably(folder / name, data) for name, data in contents.items()}
    if plan.hard_negatives is not None:
        keys = [key for part in parts for key in part.facts.entry.keys]
        rows = {"rows": Column(len(keys), row_blocks_within(plan.hard_negatives, keys=keys))}
        entries[layout.HARD_NEGATIVES_NAME] = write_npz(folder / layout.HARD_NEGATIVES_NAME, rows)
    if plan.questions is not None:
        keys = [key for part in parts for key in part.facts.entry.keys]
        entries[layout.QUESTIONS_NAME] = write_durably(
            folder / layout.QUESTIONS_NAME, npz_bytes(plan.questions.arrays(keys))
        )
        entries[layout.ANSWERS_NAME] = write_durably(folder / layout.ANSWERS_NAME, answers_data(plan.questions.answers))
    return entries
