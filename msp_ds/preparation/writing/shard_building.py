"""Build the shard sets of one stage from a recipe: read texts and image ids, plan the shards, then write them."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msp_ds.data.format.faults import Faults
from msp_ds.data.format.region_checks import RegionRow
from msp_ds.data.format.set_layout import SetName, Split
from msp_ds.data.format.text import Label, WordPieces, parse_labels, read_label_bytes
from msp_ds.data.format.vocabulary import (
    BERT_BASE_UNCASED,
    TRAINED,
    Vocabulary,
    default_hf_home,
    find_bert_vocabulary,
    read_vocabulary,
    train_vocabulary,
)
from msp_ds.data.progress import NoProgress, Progress
from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.errors import InputError
from msp_ds.preparation.exclusion import read_exclusion, require_split_files
from msp_ds.preparation.hard_negatives.hard_negative_list import read_hard_negatives
from msp_ds.preparation.recipe import Recipe, ensure_world
from msp_ds.preparation.region_features.region_files import (
    RegionFile,
    common_detector,
    files_without_labels,
    list_region_files,
    may_have_some,
    require_labels,
    scan_bytes,
    scan_rows,
)
from msp_ds.preparation.texts.benchmark_questions import QuestionBook
from msp_ds.preparation.texts.stage_texts import StageTexts, TextFiles, TextSettings, texts_of_stage
from msp_ds.preparation.writing.build_writing import Build, write_build
from msp_ds.preparation.writing.overwrite_guard import require_replaceable_sets
from msp_ds.preparation.writing.shard_plan import PlannedImage, plan_shards
from msp_ds.preparation.writing.shard_writer import SetPlan, SetReport
from msp_ds.stateless_random import HELD_OUT_IMAGE, key_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """The vocabularies of objects and attributes."""

    objects_data: bytes
    attributes_data: bytes
    objects: tuple[Label, ...]
    attributes: tuple[Label, ...]
    complete: bool
    """Whether every file of regions has labels."""


def build_shards(
    recipe: Recipe,
    *,
    stage: SetName,
    out: Path,
    progress: Progress | None = None,
    hf_home: Path | None = None,
    num_threads: int = 1,
) -> dict[Split, SetReport]:
    """Write the sets `out/stage/train` and, with a holdout, `out/stage/val`: the same bytes for any number of threads.

    Existing sets are replaced at the end, all or none; without a holdout an old `val` is deleted, since its images are
    now training images. After an interruption by a kill, Ctrl-C or a full disk, the finished tars are kept in a hidden
    folder, and the same call continues from them.

    Raises: InputError for every fault of the recipe and its files, for foreign files in the target folders, and for a
    disk that is or would be full.
    """
    progress = progress or NoProgress()
    require_replaceable_sets(out / stage)  # before hours of work
    require_split_files(recipe)
    if recipe.world is not None:
        progress.start("making the world (images)", recipe.world.images)
        ensure_world(recipe.world, advance=progress.advance)
    files = list_region_files(_require(recipe.regions, "regions"))
    build = plan_build(recipe, files=files, stage=stage, progress=progress, hf_home=hf_home, num_threads=num_threads)
    return write_build(build, out=out / stage, progress=progress, num_threads=num_threads)


def plan_build(
    recipe: Recipe,
    *,
    files: Sequence[RegionFile],
    stage: SetName,
    progress: Progress | None = None,
    hf_home: Path | None = None,
    num_threads: int = 1,
) -> Build:
    """Plan a stage's sets from all of a recipe's files; of the regions, `files`, only the ids are read.

    Phrases are tagged by `num_threads` processes.

    Raises: InputError for every fault of the recipe and its files that shows before features are read.
    """
    progress = progress or NoProgress()
    detector = common_detector(files)
    labels = _read_labels(recipe, files, detector)
    if stage == "token":
        require_labels(files)
    faults = Faults(recipe.on_error)
    progress.start("reading image ids (bytes)", scan_bytes(files))
    # Before hours of writing, so that inconsistent files are found first.
    rows = scan_rows(files, faults=faults, advance=progress.advance)
    image_ids = frozenset(row.image_id for file_rows in rows for row in file_rows)
    text_files = TextFiles(recipe, image_ids=image_ids)
    pieces = WordPieces(_find_vocabulary(recipe, labels, text_files, hf_home or default_hf_home(os.environ)))
    max_tokens = recipe.max_tokens_of(stage)
    settings = TextSettings(
        recipe=recipe,
        objects=labels.objects,
        pieces=pieces,
        max_tokens=max_tokens,
        jobs=num_threads,
        progress=progress,
    )
    texts = texts_of_stage(stage, files=text_files, settings=settings)
    split_of, counts = _assign_splits(recipe, image_ids, texts, text_files, skipped=faults.image_ids())
    texts = texts.within(split_of)
    types = tuple(sorted({file.feature_type for file in files} - {""}))
    plan = replace(_plan(recipe, stage, pieces, labels, texts.questions), feature_types=types, detector=detector)
    images, without_text = _images_by_split(rows, texts, split_of)
    plans = {split: replace(plan, split=split) for split in sorted(images)}
    if texts.questions is not None:
        counts += texts.questions.counts
    return Build(
        files=files,
        texts=texts,
        plans=plans,
        jobs=[job for split, plan in plans.items() for job in plan_shards(images[split], plan)],
        counts={
            split: {**counts, **faults.counts(), "clipped_boxes": 0, "images_without_text": without_text[split]}
            for split in plans
        },
        skipped=tuple(faults.skipped),
    )


def held_out(image_ids: frozenset[str], count: int, *, pairs: Iterable[tuple[str, str]] = ()) -> frozenset[str]:
    """Return the `count` images with the smallest keys, the same for all stages and orders of files.

    pairs: images that a question needs together. Whole groups of images that pairs connect are held out, at most
    `count` images in all. Where the groups are too large for that, single images are drawn, and questions across the
    splits are lost.

    Raises: InputError when no image would be left for training.
    """
    if count >= len(image_ids):
        raise InputError(f"a holdout of {count} leaves nothing of {len(image_ids)} images; make it smaller")
    whole = _drawn((group for group in _connected(image_ids, pairs) if len(group) > 1), count)
    return whole if 2 * len(whole) >= count else _drawn(([image_id] for image_id in image_ids), count)


def _drawn(groups: Iterable[list[str]], count: int) -> frozenset[str]:
    """Return the groups with the smallest keys, without those that would exceed `count` images."""
    held: set[str] = set()
    for group in sorted(groups, key=lambda group: min(map(_holdout_key, group))):
        if len(held) + len(group) <= count:
            held.update(group)
    return frozenset(held)


def _holdout_key(image_id: str) -> tuple[int, str]:
    return key_of(HELD_OUT_IMAGE.format(image_id=image_id)), image_id


def _connected(image_ids: frozenset[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the connected components of the images, with pairs as edges."""
    group_of = {image_id: [image_id] for image_id in image_ids}
    for one, other in pairs:
        if one in group_of and other in group_of and group_of[one] is not group_of[other]:
            larger, smaller = sorted((group_of[one], group_of[other]), key=len, reverse=True)
            larger += smaller
            group_of.update(dict.fromkeys(smaller, larger))
    return list({id(group): group for group in group_of.values()}.values())


def _require(value: tuple[str, ...], name: str) -> tuple[str, ...]:
    if not all(value) or not value:
        raise InputError(f"the recipe names no {name}; give them with --{name.replace('_', '-')} FILE")
    return value


def _read_labels(recipe: Recipe, files: Sequence[RegionFile], detector: DetectorRecord | None) -> _Labels:
    """Read the vocabularies; a kind of label that no region has needs none, and it is empty where none is named."""
    data, labels = [], []
    for name, ids in (("objects_vocab", "objects_id"), ("attributes_vocab", "attrs_id")):
        needed = any(may_have_some(file, ids) for file in files)
        path = getattr(recipe, name) or (_vocabulary_beside(files, f"{name}.txt") if detector else "")
        if needed:
            _require((path,), name)
        data.append(read_label_bytes(Path(path)) if path else b"")
        labels.append(parse_labels(data[-1], name=path, may_be_empty=not needed))
        _require_labels_of(detector, name, path, data=data[-1], labels=labels[-1])
    return _Labels(
        objects_data=data[0],
        attributes_data=data[1],
        objects=labels[0],
        attributes=labels[1],
        complete=not files_without_labels(files),
    )


def _require_labels_of(
    detector: DetectorRecord | None, name: str, path: str, *, data: bytes, labels: Sequence[Label]
) -> None:
    """Require that a vocabulary is the one on the detector's record, where there is one; spaces do not count."""
    known = detector and (detector.objects_sha256 if name == "objects_vocab" else detector.attributes_sha256)
    written = tuple(data.decode("utf-8-sig").splitlines())
    if detector and known and path and known not in map(labels_sha256, (written, tuple(map(",".join, labels)))):
        raise InputError(
            f"{path} has other labels than the detector of the regions, {detector.describe()}; "
            f"name the {name}.txt that msp-ds regions wrote: --{name.replace('_', '-')} FILE"
        )


def _vocabulary_beside(files: Sequence[RegionFile], name: str) -> str:
    """Return the label vocabulary that lies beside files of `msp-ds regions`; empty where there is none.

    All their folders have the same one: the files have one detector's record, which holds its sha256.
    """
    found = [path for file in files if (path := file.path.with_name(name)).is_file()]
    if found:
        log.info("labels are those of %s", found[0])
    return str(found[0]) if found else ""


def _find_vocabulary(recipe: Recipe, labels: _Labels, texts: TextFiles, hf_home: Path) -> Vocabulary:
    if recipe.vocab == BERT_BASE_UNCASED:
        return find_bert_vocabulary(hf_home=hf_home)
    if recipe.vocab == TRAINED:
        # From the texts of all stages: the stages of a run share one vocabulary.
        names = [name for label in (*labels.objects, *labels.attributes) for name in label]
        return train_vocabulary([*names, *texts.all_texts()])
    return read_vocabulary(Path(recipe.vocab))


def _assign_splits(
    recipe: Recipe,
    image_ids: frozenset[str],
    texts: StageTexts,
    text_files: TextFiles,
    *,
    skipped: frozenset[str],
) -> tuple[dict[str, Split], Counter[str]]:
    """Return the split of each image that may be written, and counts of what is left out so far.

    Raises: InputError for texts without regions, unless the recipe allows them or their regions were `skipped`.
    """
    # A Visual Genome image that is also there under its COCO id would bring held-out images into training.
    duplicates = image_ids & text_files.duplicates.keys()
    exclusion = read_exclusion(recipe, duplicates=text_files.duplicate_table)
    exclusion.check(image_ids)
    left_out = duplicates | exclusion.among(image_ids)
    without_regions = texts.image_ids - image_ids - exclusion.among(texts.image_ids)
    unexplained = without_regions - skipped
    if unexplained and not recipe.allow_missing:
        raise InputError(
            f"{len(unexplained)} of {len(texts.image_ids)} images with texts have no regions, the first is "
            f"{min(unexplained)}; regions have ids like {min(image_ids, default='none')}; add their region features, "
            "or leave their texts out with --allow-missing"
        )
    decided = texts.questions.split_of if texts.questions is not None else {}
    held = (
        frozenset[str]()
        if "val" in decided.values()
        else held_out(image_ids - left_out, recipe.holdout, pairs=texts.pairs)
    )
    counts = Counter(text_files.counts)
    counts.update(images_without_regions=len(without_regions), duplicates_left_out=len(duplicates))
    counts.update(exclusion.counts(image_ids))
    split_of: dict[str, Split] = {image_id: "val" if image_id in held else "train" for image_id in image_ids - left_out}
    return {image_id: decided.get(image_id, split) for image_id, split in split_of.items()}, counts


def _plan(
    recipe: Recipe, stage: SetName, pieces: WordPieces, labels: _Labels, questions: QuestionBook | None
) -> SetPlan:
    """Return the plan of the training split, which the other splits share but for their name."""
    # Only ITM_HS, a task of the sentence stage, and retrieval use similar images.
    hard_negatives = recipe.hard_negatives if stage in ("sentence", "retrieval") else None
    return SetPlan(
        stage=stage,
        split="train",
        pieces=pieces,
        objects_data=labels.objects_data,
        attributes_data=labels.attributes_data,
        max_tokens=recipe.max_tokens_of(stage),
        extractor=recipe.extractor,
        preset=recipe.preset,
        hard_negatives=read_hard_negatives(Path(hard_negatives)) if hard_negatives else None,
        questions=questions,
        has_labels=labels.complete,
        on_error=recipe.on_error,
        images_per_shard=recipe.images_per_shard,
    )


def _images_by_split(
    rows: list[list[RegionRow]], texts: StageTexts, split_of: dict[str, Split]
) -> tuple[dict[Split, list[PlannedImage]], Counter[Split]]:
    """Return the images of each split in the order of the files, and the number of images known to have no text."""
    images: dict[Split, list[PlannedImage]] = {split: [] for split in split_of.values()}
    without_text, needed_beside = Counter[Split](), texts.needed_beside
    for number, file_rows in enumerate(rows):
        for row in file_rows:
            split = split_of.get(row.image_id)
            if split is None:
                continue
            known = texts.known(row.image_id)
            if known == [] and row.image_id not in needed_beside:
                without_text[split] += 1
            else:
                images[split].append(PlannedImage(number, row, 1 if known is None else len(known)))
    return images, without_text
