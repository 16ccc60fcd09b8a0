"""From a recipe to the shard sets of one stage: texts into memory, then one pass over the region features."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msp_ds import chance
from msp_ds.data.look_alikes import read_look_alikes
from msp_ds.data.recipe import Recipe, ensure_world
from msp_ds.data.set_layout import Split, StageName
from msp_ds.data.shard_writer import SetPlan, SetReport, SetWriter
from msp_ds.data.sources.faults import Faults
from msp_ds.data.sources.region_checks import LabelCounts, RegionRow
from msp_ds.data.sources.region_files import (
    RegionFile,
    files_without_labels,
    list_region_files,
    read_or_skip,
    require_labels,
    scan_bytes,
    scan_rows,
)
from msp_ds.data.stage_texts import StageTexts, TextFiles, TextSettings, texts_of_stage
from msp_ds.data.text import Label, WordPieces, parse_labels, read_label_bytes
from msp_ds.data.vocabulary import (
    BERT_BASE_UNCASED,
    TRAINED,
    Vocabulary,
    default_hf_home,
    find_bert_vocabulary,
    read_vocabulary,
    train_vocabulary,
)
from msp_ds.errors import InputError


class Progress(Protocol):
    """Who shows how far the work is."""

    def start(self, label: str, total: int | None) -> None:
        """A new piece of work begins, of `total` bytes or images; None when that is not known."""

    def advance(self, amount: int) -> None:
        """So much more of it is done."""


class NoProgress:
    """Shows nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """The two label vocabularies."""

    objects_data: bytes
    attributes_data: bytes
    objects: tuple[Label, ...]
    attributes: tuple[Label, ...]
    complete: bool
    """Whether every file of regions has labels."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be written, once all small files are read and found in order."""

    files: list[RegionFile]
    rows: list[list[RegionRow]]
    """Of each file."""
    labels: _Labels
    texts: StageTexts
    split_of: dict[str, Split]
    """The images to write, by id, among those of `files`."""
    counts: Counter[str]
    faults: Faults


def build_shards(
    recipe: Recipe, *, stage: StageName, out: Path, progress: Progress | None = None, hf_home: Path | None = None
) -> dict[Split, SetReport]:
    """Write the sets `out/stage/train` and, with a holdout, `out/stage/val`; all or, when anything fails, nothing.

    Sets that were there are replaced at the end; without a holdout an old `val`, whose images are now trained on, goes.

    Raises: InputError for every fault of the recipe and its files.
    """
    progress = progress or NoProgress()
    if recipe.world is not None:
        progress.start("making the world (images)", recipe.world.images)
        ensure_world(recipe.world, advance=progress.advance)
    files = list_region_files(_needed(recipe.regions, "regions"))
    labels = _read_labels(recipe, files)
    if stage == "token":
        require_labels(files)
    faults = Faults(recipe.on_error)
    progress.start("reading image ids (bytes)", scan_bytes(files))
    # Before hours of writing, so that what does not fit together is found.
    rows = scan_rows(files, faults=faults, advance=progress.advance)
    image_ids = frozenset(row.image_id for file_rows in rows for row in file_rows)
    text_files = TextFiles(recipe, image_ids=image_ids)
    pieces = WordPieces(_find_vocabulary(recipe, labels, text_files, hf_home or default_hf_home(os.environ)))
    max_tokens = recipe.max_tokens_of(stage)
    settings = TextSettings(recipe=recipe, objects=labels.objects, pieces=pieces, max_tokens=max_tokens)
    texts = texts_of_stage(stage, files=text_files, settings=settings)
    split_of, counts = _choose(recipe, image_ids, texts, text_files, skipped=faults.image_ids())
    work = _Work(files=files, rows=rows, labels=labels, texts=texts, split_of=split_of, counts=counts, faults=faults)
    plans = {split: _plan(recipe, stage, split, pieces, labels) for split in sorted(set(split_of.values()))}
    try:
        reports = _write(work, plans=plans, out=out / stage, progress=progress)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); free its disk or name another --out") from None
    if "val" not in reports:
        shutil.rmtree(out / stage / "val", ignore_errors=True)
    return reports


def held_out(image_ids: frozenset[str], count: int) -> frozenset[str]:
    """The `count` images that are set apart: those with the smallest keys, whatever the stage and the order of files.

    Raises: InputError when none would be left to train on.
    """
    if count >= len(image_ids):
        raise InputError(f"a holdout of {count} leaves nothing of {len(image_ids)} images; make it smaller")
    return frozenset(sorted(image_ids, key=lambda image_id: (chance.key_of(f"holdout\n{image_id}"), image_id))[:count])


def _needed(value: tuple[str, ...], name: str) -> tuple[str, ...]:
    if not all(value) or not value:
        raise InputError(f"the recipe names no {name}; give them with --{name.replace('_', '-')} FILE")
    return value


def _read_labels(recipe: Recipe, files: list[RegionFile]) -> _Labels:
    """The vocabularies; those that the recipe does not name are empty where no file has labels."""
    unlabelled = files_without_labels(files)
    data, labels = [], []
    for name, path in (("objects_vocab", recipe.objects_vocab), ("attributes_vocab", recipe.attributes_vocab)):
        named = len(unlabelled) < len(files) or path
        data.append(read_label_bytes(Path(_needed((path,), name)[0])) if named else b"")
        labels.append(parse_labels(data[-1], name=path, may_be_empty=not named))
    return _Labels(
        objects_data=data[0],
        attributes_data=data[1],
        objects=labels[0],
        attributes=labels[1],
        complete=not unlabelled,
    )


def _find_vocabulary(recipe: Recipe, labels: _Labels, texts: TextFiles, hf_home: Path) -> Vocabulary:
    if recipe.vocab == BERT_BASE_UNCASED:
        return find_bert_vocabulary(hf_home=hf_home)
    if recipe.vocab == TRAINED:
        # Of all texts, whatever the stage: the stages of a run share one vocabulary.
        names = [name for label in (*labels.objects, *labels.attributes) for name in label]
        return train_vocabulary([*names, *texts.all_texts()])
    return read_vocabulary(Path(recipe.vocab))


def _choose(
    recipe: Recipe,
    image_ids: frozenset[str],
    texts: StageTexts,
    text_files: TextFiles,
    *,
    skipped: frozenset[str],
) -> tuple[dict[str, Split], Counter[str]]:
    """The split of each image that may be written, and counts of what is left out so far.

    Raises: InputError for texts without regions, unless the recipe allows them or their regions were `skipped`.
    """
    # A Visual Genome image that is there under its COCO id too would smuggle held-out images into training.
    twins = image_ids & text_files.twins.keys()
    without_regions = texts.image_ids - image_ids
    unexplained = without_regions - skipped
    if unexplained and not recipe.allow_missing:
        raise InputError(
            f"{len(unexplained)} of {len(texts.image_ids)} images with texts have no regions, the first is "
            f"{min(unexplained)}; add their region features, or leave their texts out with --allow-missing"
        )
    apart = held_out(image_ids - twins, recipe.holdout)
    counts = Counter(text_files.counts)
    counts.update(images_without_regions=len(without_regions), twins_left_out=len(twins))
    return {image_id: "val" if image_id in apart else "train" for image_id in image_ids - twins}, counts


def _plan(recipe: Recipe, stage: StageName, split: Split, pieces: WordPieces, labels: _Labels) -> SetPlan:
    # Only ITM_HS, a task of sentences, swaps images.
    look_alikes = recipe.hard_negatives if stage == "sentence" else None
    return SetPlan(
        stage=stage,
        split=split,
        pieces=pieces,
        objects_data=labels.objects_data,
        attributes_data=labels.attributes_data,
        max_tokens=recipe.max_tokens_of(stage),
        extractor=recipe.extractor,
        preset=recipe.preset,
        look_alikes=read_look_alikes(Path(look_alikes)) if look_alikes else None,
        has_labels=labels.complete,
    )


def _write(work: _Work, *, plans: dict[Split, SetPlan], out: Path, progress: Progress) -> dict[Split, SetReport]:
    with ExitStack() as stack:
        writers = {split: stack.enter_context(SetWriter(out / split, plan=plan)) for split, plan in plans.items()}
        counts = _stream(work, writers, progress)
        # Joined as dicts: a union of Counters would drop the zeros, which say that nothing was left out.
        faults = work.faults
        reports = {
            split: writer.finish({**work.counts, **counts[split], **faults.counts()}, skipped=faults.skipped)
            for split, writer in writers.items()
        }
        for writer in writers.values():
            writer.commit()
    return reports


def _stream(work: _Work, writers: dict[Split, SetWriter], progress: Progress) -> dict[Split, Counter[str]]:
    """Pass all regions on to the writers; what each split leaves out."""
    progress.start("writing shards (bytes read)", sum(row.length for rows in work.rows for row in rows))
    counts = {split: Counter[str]() for split in writers}
    label_counts = LabelCounts(objects=len(work.labels.objects), attributes=len(work.labels.attributes))
    for file, rows in zip(work.files, work.rows, strict=True):
        for row in rows:
            reading = read_or_skip(file, row, labels=label_counts, faults=work.faults)
            split = work.split_of.get(row.image_id)
            if split is not None and reading is not None:
                record, num_clipped = reading
                texts = work.texts.texts_of(record)
                counts[split].update(clipped_boxes=num_clipped, images_without_text=int(not texts))
                if texts:
                    writers[split].add(record, texts)
            progress.advance(row.length)
    return counts
