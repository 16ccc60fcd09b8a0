"""Write the demo world: raw files in the official layouts, a pure function of seed and sizes."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msp_ds.demo_world.appearance import Appearance
from msp_ds.demo_world.detector import detect
from msp_ds.demo_world.language.captions import captions_of
from msp_ds.demo_world.language.phrases import phrases_of
from msp_ds.demo_world.language.questions import questions_of
from msp_ds.demo_world.nearest import nearest_rows
from msp_ds.demo_world.random_stream import RandomStream, stream
from msp_ds.demo_world.scenes import draw_scene
from msp_ds.demo_world.vocabulary import attributes_vocabulary, objects_vocabulary
from msp_ds.demo_world.writing.question_writers import GqaWriter, StatementWriter, VqaWriter
from msp_ds.demo_world.writing.writers import (
    MOST_IMAGES,
    CaptionsWriter,
    GenomeWriter,
    RawWriter,
    RegionsWriter,
    coco_id,
)
from msp_ds.errors import InputError
from msp_ds.storage.atomic_files import followed, replacing_folder, require_own_files, write_durably
from msp_ds.storage.locks import process_exists

WORLD_FORMAT, WORLD_VERSION = "msp-ds world", 2

_CARD = "world.json"
_FILES = frozenset(
    {_CARD, "regions.tsv", "captions.json", "region_descriptions.json", "image_data.json", "vqa_questions.json"}
    | {"vqa_annotations.json", "gqa_questions.json", "nlvr2.json", "objects_vocab.txt", "attributes_vocab.txt"}
    | {"hard_negatives.npz", "means.part", "annotations.part"}
)
"""Every file of a world, those that exist only while it is written included."""
_DUPLICATE_RATIO = 0.8
_NARROWEST = 16
_WIDEST = 1 << 16
_ADVANCE_EVERY = 16
_NEIGHBOURS = 100  # columns of ViLBERT's public list of hard negatives, the image itself included


@dataclass(frozen=True, kw_only=True)
class WorldReport:
    """What was written."""

    folder: Path
    images: int
    captions: int
    phrases: int


def make_world(
    out: Path, *, images: int, seed: int, feature_width: int = 2048, advance: Callable[[int], None] | None = None
) -> WorldReport:
    """Write the world `seed` with that many images into the folder `out`; the same arguments give the same bytes.

    The files are laid out as those of LXMERT (regions.tsv, nlvr2.json), COCO, Visual Genome, VQA, GQA and ViLBERT
    (hard_negatives.npz). The folder appears complete or not at all; a world that was there is replaced.
    advance: called with the number of images written since its last call.

    Raises InputError on numbers out of range, and where `out` holds anything beside a world or cannot be written.
    """
    _check_numbers(images, seed, feature_width)
    with _whole_folder(out) as folder:
        captions, phrases = _write_images(
            folder, images=images, seed=seed, feature_width=feature_width, advance=advance
        )
        _write_hard_negatives(folder, images=images, feature_width=feature_width)
        write_durably(folder / "objects_vocab.txt", objects_vocabulary().encode())
        write_durably(folder / "attributes_vocab.txt", attributes_vocabulary().encode())
        card = {"format": WORLD_FORMAT, "version": WORLD_VERSION}
        card |= {"seed": seed, "images": images, "feature_width": feature_width}
        write_durably(folder / _CARD, f"{json.dumps(card, indent=2)}\n".encode())
    return WorldReport(folder=out, images=images, captions=captions, phrases=phrases)


def _check_numbers(images: int, seed: int, feature_width: int) -> None:
    if not 1 <= images <= MOST_IMAGES:
        raise InputError(f"a world has 1 to {MOST_IMAGES} images, not {images}; ask for at least 1")
    if not _NARROWEST <= feature_width <= _WIDEST:
        raise InputError(
            f"region features need at least {_NARROWEST} numbers and at most {_WIDEST}, not {feature_width}; "
            "2048 is the real width"
        )
    if not 0 <= seed < 2**64:
        raise InputError(f"the seed of a world is 0 to 2**64 - 1, not {seed}")


def _write_images(
    folder: Path, *, images: int, seed: int, feature_width: int, advance: Callable[[int], None] | None
) -> tuple[int, int]:
    """Write all files that grow with the images, and mean features to means.part for the hard negatives.

    Returns the numbers of captions and of phrases.
    """
    appearance = Appearance(seed, feature_width=feature_width)
    captions = phrases = num_reported = 0
    regions, captions_file, genome = RegionsWriter(folder), CaptionsWriter(folder), GenomeWriter(folder)
    vqa, gqa, statements = VqaWriter(folder), GqaWriter(folder), StatementWriter(folder)
    files = (captions_file, genome, regions, vqa, gqa, statements)
    with _completing(*files), (folder / "means.part").open("wb") as means:
        for number in range(images):
            scene = draw_scene(seed, number)
            detections = detect(seed, scene)
            features = appearance.features(scene, detections)
            regions.add(scene, detections, features)
            means.write(features.mean(axis=0).tobytes())
            texts = captions_of(seed, scene)
            captions_file.add(scene, texts)
            captions += len(texts)
            questions = questions_of(seed, scene)
            vqa.add(seed, scene, questions)
            statements.add(seed, scene)
            if has_duplicate(seed, number):
                gqa.add(scene, questions)
                described = phrases_of(seed, scene)
                genome.add(scene, described)
                phrases += len(described)
            if advance and (number + 1 - num_reported == _ADVANCE_EVERY or number + 1 == images):
                advance(number + 1 - num_reported)
                num_reported = number + 1
    return captions, phrases


@contextmanager
def _completing(*writers: RawWriter | RegionsWriter) -> Iterator[None]:
    """Complete the writers' files after the block; after an exception close them as they are."""
    try:
        yield
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    for writer in writers:
        writer.close()


def has_duplicate(seed: int, number: int) -> bool:
    """Whether image `number` is also in Visual Genome."""
    return RandomStream(stream(seed, number, "twin")).chance(_DUPLICATE_RATIO)


def _write_hard_negatives(folder: Path, *, images: int, feature_width: int) -> None:
    """Write ViLBERT's layout: each row starts with the image itself, then its nearest others by (distance, row)."""
    part = folder / "means.part"
    means = np.memmap(part, dtype=np.float32, mode="r", shape=(images, feature_width))
    ids = np.array([coco_id(number) for number in range(images)], dtype=np.int64)
    own = np.arange(images, dtype=np.int32)[:, None]
    neighbours = np.concatenate([own, nearest_rows(means, count=_NEIGHBOURS - 1)], axis=1)
    del means
    part.unlink()
    with (folder / "hard_negatives.npz").open("wb") as file:
        np.savez(file, image_ids=ids, neighbours=neighbours)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that becomes `out` when the block succeeds and is deleted when it fails."""
    if os.path.exists(out) and not (out.is_dir() and (_is_world(out) or not any(out.iterdir()))):
        raise InputError(f"{out} exists and is not a demo world; name a new folder, or remove it first")
    try:
        target = followed(out)
        _require_own_files(target)
        temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
        _clean_up(target)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}; name a folder that you may write to") from None
    try:
        with replacing_folder(target, temporary):
            yield temporary
            _require_own_files(target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"the disk of {out} is full; an image takes 0.4 MB at width 2048: ask for fewer") from None


def _is_world(folder: Path) -> bool:
    card = folder / _CARD
    return card.is_file() and WORLD_FORMAT.encode() in card.read_bytes()[:100]


def _require_own_files(folder: Path) -> None:
    require_own_files(folder, is_own=_FILES.__contains__, what="a demo world", fix="move it, or name another --out")


def _clean_up(out: Path) -> None:
    """Delete the partial folders that dead processes left beside `out`, unless they hold files of others."""
    for stale in out.parent.glob(f".{out.name}.partial-*"):
        process = stale.name.rpartition("-")[2]
        if process.isdecimal() and (int(process) == os.getpid() or not process_exists(process)):
            with suppress(InputError):
                _require_own_files(stale)
                shutil.rmtree(stale, ignore_errors=True)
