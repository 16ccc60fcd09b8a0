"""Writes shard sets: into a temporary folder beside the target, down to the disk, then renamed into place at once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from msp_ds.config import to_json
from msp_ds.data import set_layout as layout
from msp_ds.data.durable import replace_folder, sweep_stale, sync_folder, temporary_sibling, write_durably
from msp_ds.data.look_alikes import LookAlikeList, rows_within
from msp_ds.data.set_layout import FileEntry, SetIndex, ShardEntry, Split, StageName
from msp_ds.data.set_tables import FeatureMean, PairTable, TarShard, npy_bytes, npz_bytes
from msp_ds.data.sources.faults import SkippedRow
from msp_ds.data.text import Label, WordPieces, parse_labels
from msp_ds.errors import InputError
from msp_ds.records import RegionRecord


@dataclass(frozen=True, kw_only=True)
class SetPlan:
    """What all images of a set have in common."""

    stage: StageName
    split: Split
    pieces: WordPieces
    objects_data: bytes
    """The object vocabulary, byte for byte."""
    attributes_data: bytes
    """The attribute vocabulary, byte for byte."""
    max_tokens: int
    """Pieces of a text, [CLS] and [SEP] included; longer ones are cut."""
    extractor: str = ""
    preset: str | None = None
    look_alikes: LookAlikeList | None = None
    has_labels: bool = True
    """Whether every source of regions has the detector's labels."""
    images_per_shard: int = 1000
    bytes_per_shard: int = 10**9
    """A tar ends with the image that reaches either limit."""

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
    """What was written."""

    path: Path
    num_images: int
    num_pairs: int
    num_shards: int
    num_bytes: int
    """Of the tars."""
    texts: dict[str, int]
    """Counts of what was kept, dropped and cut."""

    def describe(self) -> str:
        """One line: `shards/token/train: 1800 images, 1800 texts, 2 tars, 269 MB; truncated 12, ...`."""
        size = (
            f"{self.num_images} images, {self.num_pairs} texts, {self.num_shards} tars, {self.num_bytes / 1e6:.0f} MB"
        )
        counts = [f"{name.replace('_', ' ')} {count}" for name, count in self.texts.items() if count and name != "kept"]
        return f"{self.path}: {size}" + ("; " + ", ".join(counts) if counts else "")


class SetWriter:
    """Writes one set as a context: `add` for each image, `finish`, `commit`. Left without commit, nothing remains."""

    def __init__(self, target: Path, *, plan: SetPlan) -> None:
        self._target = target
        self._plan = plan
        self._folder = temporary_sibling(target)
        self._shards: list[ShardEntry] = []
        self._tar: TarShard | None = None
        self._keys: dict[str, None] = {}
        self._pairs = PairTable(plan.pieces, max_tokens=plan.max_tokens)
        self._mean = FeatureMean()
        self._num_regions = 0

    def __enter__(self) -> SetWriter:
        sweep_stale(self._target)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._tar is not None:
            self._tar.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, record: RegionRecord, texts: list[str]) -> None:
        """Append an image with its texts.

        Raises: InputError for an image that is there already, for features of another width, and without a text.
        """
        if record.image_id in self._keys:
            raise InputError(f"{record.source}: image {record.image_id} comes twice; every image needs one row")
        if not texts:
            raise InputError(f"{record.source}: image {record.image_id} has no text")
        self._mean.add(record)
        self._pairs.add(image_id=record.image_id, image_row=len(self._keys), texts=texts)
        self._keys[record.image_id] = None
        self._num_regions = max(self._num_regions, len(record.features))
        self._append(record, texts)

    def finish(self, counts: dict[str, int], *, skipped: Sequence[SkippedRow] = ()) -> SetReport:
        """Write the tables and, last, the index; `counts` join those of the texts, `skipped` is kept with them.

        Raises: InputError when no image was added.
        """
        if not self._keys:
            raise InputError(f"no image with a text is left for {self._target}; check the image ids and --holdout")
        self._close_tar()
        texts = {"kept": len(self._pairs), "truncated": self._pairs.num_truncated} | counts
        index = dataclasses.replace(self._index(texts), skipped=tuple(skipped))
        write_durably(self._folder / layout.INDEX_NAME, (json.dumps(to_json(index)) + "\n").encode())
        sync_folder(self._folder)
        return SetReport(
            path=self._target,
            num_images=index.num_images,
            num_pairs=index.num_pairs,
            num_shards=len(index.shards),
            num_bytes=sum(shard.bytes for shard in index.shards),
            texts=index.texts,
        )

    def commit(self) -> None:
        """Put the finished set in the place of the old one, if any."""
        replace_folder(self._folder, self._target)

    def _append(self, record: RegionRecord, texts: list[str]) -> None:
        if self._tar is None:
            self._tar = TarShard(self._folder / f"{len(self._shards):06d}.tar")
        payload = layout.pack_record(record, texts)
        self._tar.add(record.image_id, payload, region_count=len(record.features))
        if self._tar.num_images >= self._plan.images_per_shard or self._tar.num_bytes >= self._plan.bytes_per_shard:
            self._close_tar()

    def _close_tar(self) -> None:
        if self._tar is not None:
            self._shards.append(self._tar.close())
            self._tar = None

    def _index(self, texts: dict[str, int]) -> SetIndex:
        plan = self._plan
        return SetIndex(
            format=layout.FORMAT,
            version=layout.VERSION,
            stage=plan.stage,
            split=plan.split,
            num_images=len(self._keys),
            num_pairs=len(self._pairs),
            num_regions=self._num_regions,
            feature_width=self._mean.width,
            max_tokens=plan.max_tokens,
            num_objects=len(plan.objects),
            num_attributes=len(plan.attributes),
            vocab_size=plan.pieces.size,
            vocabulary_sha256=plan.pieces.vocabulary.sha256,
            extractor=plan.extractor,
            preset=plan.preset,
            texts=texts,
            files=self._write_tables(),
            shards=tuple(self._shards),
            has_labels=plan.has_labels,
        )

    def _write_tables(self) -> dict[str, FileEntry]:
        """The files beside the tars."""
        plan = self._plan
        contents = {
            layout.PAIRS_NAME: npz_bytes(self._pairs.arrays()),
            layout.FEATURE_MEAN_NAME: npy_bytes(self._mean.mean()),
            layout.VOCAB_NAME: plan.pieces.vocabulary.data,
            layout.OBJECTS_NAME: plan.objects_data,
            layout.ATTRIBUTES_NAME: plan.attributes_data,
        }
        if plan.look_alikes is not None:
            rows = rows_within(plan.look_alikes, keys=list(self._keys))
            contents[layout.LOOK_ALIKES_NAME] = npz_bytes({"rows": rows})
        return {name: write_durably(self._folder / name, data) for name, data in contents.items()}


def write_set(
    target: Path, *, plan: SetPlan, examples: Iterable[tuple[RegionRecord, list[str]]], counts: dict[str, int]
) -> SetReport:
    """Write one whole set of images with their texts, or, when anything fails, nothing."""
    with SetWriter(target, plan=plan) as writer:
        for record, texts in examples:
            writer.add(record, texts)
        report = writer.finish(counts)
        writer.commit()
    return report
