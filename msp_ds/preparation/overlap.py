"""Find the images that two data sets share, by id and as the same photograph in Visual Genome and COCO.

COCO, Visual Genome, GQA and Karpathy's splits use the same photographs, so test images may be training images: 2,138 of
Karpathy's 5,000 COCO test images are also in Visual Genome.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from msp_ds.data.format.image_ids import corpus_of, in_order, is_renumbered
from msp_ds.data.format.shards import open_set
from msp_ds.errors import InputError
from msp_ds.preparation.sources.mentions import parse_reference
from msp_ds.preparation.sources.text_files import read_image_ids
from msp_ds.preparation.sources.visual_genome import NO_DUPLICATES, CocoDuplicates, read_duplicates
from msp_ds.storage.atomic_files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The images that two sets share."""

    by_id: tuple[str, ...]
    """Canonical ids in both sets."""
    by_duplicate: tuple[tuple[str, str], ...]
    """(id in the first, id in the second): different ids of one photograph."""

    def __bool__(self) -> bool:
        return bool(self.by_id or self.by_duplicate)


@dataclass(frozen=True, kw_only=True)
class AuditedSet:
    """A shard set or a file, and its images."""

    name: str
    image_ids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The images that training and evaluation data share, and what could not be determined."""

    train: tuple[AuditedSet, ...]
    evaluation: tuple[AuditedSet, ...]
    pairs: dict[tuple[str, str], Overlap]
    """(name of a training set, name of an evaluation set) -> shared images."""
    unchecked: str
    """Why duplicates could not be identified, and the fix; empty where all were."""
    warnings: tuple[str, ...]
    """Duplicates that no table covers, so that there is no fix."""

    @property
    def overlap(self) -> Overlap:
        """Images that all training sets together share with all evaluation sets together."""
        by_id = {image_id for pair in self.pairs.values() for image_id in pair.by_id}
        by_duplicate = {duplicates for pair in self.pairs.values() for duplicates in pair.by_duplicate}
        return Overlap(by_id=tuple(in_order(by_id)), by_duplicate=tuple(sorted(by_duplicate)))

    def require_certainty(self) -> None:
        """Require that an empty overlap is a certain result. Raises: InputError naming what is missing."""
        if self.unchecked and not self.overlap:
            raise InputError(f"no image is in both by id, but {self.unchecked}")

    def write(self, path: Path) -> None:
        """Write the images of `overlap`, one photograph a line with all its ids, for `msp-ds shard --exclude`.

        Raises: InputError when the file cannot be written.
        """
        lines = [*self.overlap.by_id, *(f"{train} {evaluation}" for train, evaluation in self.overlap.by_duplicate)]
        text = "".join(f"{line}\n" for line in ("# images of the training data in the evaluation data", *lines))
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); name another file with --out") from None


def audit(train: Iterable[str], evaluation: Iterable[str], *, image_data: str | None = None) -> Audit:
    """Compare the images of shard sets and files, each `[corpus:]PATH[#split+split]`.

    image_data: Visual Genome's image_data.json, the table of duplicates.

    Raises: InputError for an unreadable file.
    """
    table = read_duplicates(Path(image_data)) if image_data else NO_DUPLICATES
    train_sets, evaluation_sets = _read_sets(train, "--train"), _read_sets(evaluation, "--eval")
    pairs = {
        (one.name, other.name): find_overlap(one.image_ids, other.image_ids, table)
        for one in train_sets
        for other in evaluation_sets
    }
    all_train, all_evaluation = _all_ids(train_sets), _all_ids(evaluation_sets)
    return Audit(
        train=train_sets,
        evaluation=evaluation_sets,
        pairs=pairs,
        unchecked=unchecked_duplicates(all_train, all_evaluation, table),
        warnings=tuple(_warnings(all_train | all_evaluation)),
    )


def find_overlap(one: frozenset[str], other: frozenset[str], table: CocoDuplicates) -> Overlap:
    """Return the images that two sets of canonical ids share."""
    ids_of_picture: dict[str, list[str]] = defaultdict(list)
    for image_id in other:
        ids_of_picture[table.picture(image_id)].append(image_id)
    by_duplicate = [
        (image_id, duplicate)
        for image_id in one
        for duplicate in ids_of_picture.get(table.picture(image_id), ())
        if duplicate != image_id
    ]
    return Overlap(by_id=tuple(in_order(one & other)), by_duplicate=tuple(sorted(by_duplicate)))


def same_pictures(image_ids: frozenset[str], wanted: frozenset[str], table: CocoDuplicates) -> frozenset[str]:
    """Return those of `image_ids` whose photograph is in `wanted` under any id."""
    pictures = {table.picture(image_id) for image_id in wanted}
    return frozenset(image_id for image_id in image_ids if table.picture(image_id) in pictures)


def unchecked_duplicates(one: frozenset[str], other: frozenset[str], table: CocoDuplicates) -> str:
    """Return why a table cannot identify the duplicates of two sets, and the fix; empty when it can.

    It can when no Visual Genome image is compared with COCO images, or when all that are compared are in the table.
    """
    genome = _genome_facing_coco(one, other) | _genome_facing_coco(other, one)
    unknown = genome - table.images
    if not unknown:
        return ""
    first = in_order(unknown)[0]
    if not table.images:
        return (
            f"{len(genome)} images of Visual Genome (the first is {first}) may be COCO images under another number; "
            "give Visual Genome's image_data.json with --image-data FILE"
        )
    return (
        f"--image-data lacks {len(unknown)} of {len(genome)} images of Visual Genome, the first is {first}; "
        "give the whole image_data.json, of 108,077 images"
    )


def _genome_facing_coco(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """Return the Visual Genome images of one set if the other set has COCO images."""
    if not any(corpus_of(image_id) == "coco" for image_id in other):
        return frozenset()
    return frozenset(image_id for image_id in one if corpus_of(image_id) == "vg" and not is_renumbered(image_id))


def _warnings(image_ids: frozenset[str]) -> Iterator[str]:
    if num_renumbered := sum(map(is_renumbered, image_ids)):
        yield (
            f"{num_renumbered} images have GQA's numbers n..., which are COCO images under unknown ids; "
            "they were compared with each other only"
        )
    if "f30k" in (corpora := {corpus_of(image_id) for image_id in image_ids}) and corpora & {"coco", "vg"}:
        yield "Flickr30k, COCO and Visual Genome all come from Flickr; Flickr30k's images were compared by id only"


def _read_sets(names: Iterable[str], flag: str) -> tuple[AuditedSet, ...]:
    names = tuple(dict.fromkeys(names))
    if not names:
        raise InputError(f"there is nothing to compare; name a shard set or a file with {flag} PATH")
    return tuple(AuditedSet(name=name, image_ids=_images_of(name)) for name in names)


def _images_of(name: str) -> frozenset[str]:
    if os.path.isdir(name):
        return frozenset(open_set(Path(name)).keys)
    if not os.path.exists(parse_reference(name).path):
        raise InputError(f"{name} is missing; it should be a shard set, as shards/sentence/train, or a file of images")
    return read_image_ids(name)


def _all_ids(sets: Iterable[AuditedSet]) -> frozenset[str]:
    return frozenset[str]().union(*(one.image_ids for one in sets))
