"""Which images two data sets share, by name and as the same photograph in Visual Genome and COCO.

COCO, Visual Genome, GQA and Karpathy's splits are drawn from the same photographs, so that what is tested on may have
been trained on: 2,138 of Karpathy's 5,000 COCO test images are Visual Genome's too.
"""

from __future__ import annotations

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
    """What two sets of images share."""

    by_id: tuple[str, ...]
    """Canonical ids that are in both."""
    by_duplicate: tuple[tuple[str, str], ...]
    """(id in the first, id in the second): different ids of one photograph."""

    def __bool__(self) -> bool:
        return bool(self.by_id or self.by_duplicate)


@dataclass(frozen=True, kw_only=True)
class AuditedSet:
    """A shard set or a file with the images that it names."""

    name: str
    image_ids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What training and evaluation data share, and what could not be found out."""

    train: tuple[AuditedSet, ...]
    evaluation: tuple[AuditedSet, ...]
    pairs: dict[tuple[str, str], Overlap]
    """(name of a training part, name of an evaluation part) -> what they share."""
    unchecked: str
    """Why duplicates could not be told apart, and what fixes it; empty where all were."""
    warnings: tuple[str, ...]
    """What no table tells, so that nothing fixes it."""

    @property
    def overlap(self) -> Overlap:
        """What the training parts together share with the evaluation parts together."""
        by_id = {image_id for pair in self.pairs.values() for image_id in pair.by_id}
        by_duplicate = {duplicates for pair in self.pairs.values() for duplicates in pair.by_duplicate}
        return Overlap(by_id=tuple(in_order(by_id)), by_duplicate=tuple(sorted(by_duplicate)))

    def require_certainty(self) -> None:
        """Demand that an empty overlap was really looked for. Raises: InputError that says what is missing."""
        if self.unchecked and not self.overlap:
            raise InputError(f"no image is in both by id, but {self.unchecked}")

    def write(self, path: Path) -> None:
        """Write the images of `overlap`, one photograph a line with all its ids: a list for `msp-ds shard --exclude`.

        Raises: InputError when that is not possible.
        """
        lines = [*self.overlap.by_id, *(f"{train} {evaluation}" for train, evaluation in self.overlap.by_duplicate)]
        text = "".join(f"{line}\n" for line in ("# images of the training data in the evaluation data", *lines))
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); name another file with --out") from None


def audit(train: Iterable[str], evaluation: Iterable[str], *, image_data: str | None = None) -> Audit:
    """Compare the images of shard sets and files, each `[corpus:]PATH[#split+split]`.

    image_data: Visual Genome's image_data.json, which knows the duplicates.

    Raises: InputError for what cannot be read.
    """
    table = read_duplicates(Path(image_data)) if image_data else NO_DUPLICATES
    train_parts, evaluation_parts = _parts(train, "--train"), _parts(evaluation, "--eval")
    pairs = {
        (one.name, other.name): find_overlap(one.image_ids, other.image_ids, table)
        for one in train_parts
        for other in evaluation_parts
    }
    all_train, all_evaluation = _all_ids(train_parts), _all_ids(evaluation_parts)
    return Audit(
        train=train_parts,
        evaluation=evaluation_parts,
        pairs=pairs,
        unchecked=unchecked_duplicates(all_train, all_evaluation, table),
        warnings=tuple(_warnings(all_train | all_evaluation)),
    )


def find_overlap(one: frozenset[str], other: frozenset[str], table: CocoDuplicates) -> Overlap:
    """What two sets of canonical ids share."""
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
    """Those of `image_ids` whose photograph is one of `wanted`, under whatever id."""
    pictures = {table.picture(image_id) for image_id in wanted}
    return frozenset(image_id for image_id in image_ids if table.picture(image_id) in pictures)


def unchecked_duplicates(one: frozenset[str], other: frozenset[str], table: CocoDuplicates) -> str:
    """Why duplicates between two sets cannot be told by a table, and what fixes it; empty when they can.

    They can when no Visual Genome image faces a COCO image, or when the table knows all Visual Genome images that do.
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
        f"--image-data does not know {len(unknown)} of {len(genome)} images of Visual Genome, the first is {first}; "
        "give the whole image_data.json, of 108,077 images"
    )


def _genome_facing_coco(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """The Visual Genome images of one set when the other has COCO's."""
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


def _parts(names: Iterable[str], flag: str) -> tuple[AuditedSet, ...]:
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


def _all_ids(parts: Iterable[AuditedSet]) -> frozenset[str]:
    return frozenset[str]().union(*(part.image_ids for part in parts))
