"""Canonical image ids, the same in every corpus file: `coco-391895`, `vg-2375429`, `nlvr2-train-10171-0-img0`.

They are ASCII without dots, so that they can be the keys of tar members. Two ids may still name one photograph:
`CocoDuplicates` in preparation/sources/visual_genome.py lists the images of Visual Genome that are COCO's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from msp_ds.errors import InputError

Corpus = Literal["coco", "vg", "f30k", "nlvr2"]
"""The corpus of a file's images, which decides what a plain number means."""

CORPORA: tuple[Corpus, ...] = get_args(Corpus)

_NLVR2 = r"(?:train|dev|test1|test2)-\d+-\d+-img[01]"
_CANONICAL = re.compile(rf"nlvr2-{_NLVR2}", re.ASCII)
_CANONICAL_NUMBER = re.compile(r"(coco|f30k|vg)-((?<=vg-)n)?(\d{1,18})", re.ASCII)
_COCO_SPLITS = "train2014|val2014|test2014|test2015|train2017|val2017|test2017|unlabeled2017"
_COCO_FILE = re.compile(rf"COCO_(?:{_COCO_SPLITS})_(\d{{12}})(?:\.jpg)?", re.ASCII)
_NLVR2_FILE = re.compile(rf"({_NLVR2})(?:\.\w+)?", re.ASCII)
# GQA's test images are COCO images under new numbers that start with n.
_NUMBER = re.compile(r"(n?)(\d{1,18})(?:\.jpg)?", re.ASCII)


def canonical_image_id(raw: str | int, *, corpus: Corpus, where: str) -> str:
    """Return the canonical id of an image that a file of `corpus` calls `raw`.

    The corpus decides what a number means; names such as `COCO_val2014_000000391895` or `train-10171-0-img0` and
    canonical ids mean the same in every corpus.

    Raises: InputError for any other form, naming `where` (file and row).
    """
    text = raw.strip() if isinstance(raw, str) else str(raw)
    if _CANONICAL.fullmatch(text):
        return text
    if match := _CANONICAL_NUMBER.fullmatch(text):
        return f"{match[1]}-{match[2] or ''}{int(match[3])}"
    if match := _COCO_FILE.fullmatch(text):
        return f"coco-{int(match[1])}"
    if match := _NLVR2_FILE.fullmatch(text):
        return f"nlvr2-{match[1]}"
    match = _NUMBER.fullmatch(text)
    if match is None or isinstance(raw, bool) or corpus == "nlvr2" or (match[1] and corpus != "vg"):
        raise InputError(f"{where}: {raw!r} is no image id of {corpus}; known forms are {_FORMS[corpus]}")
    return f"{corpus}-{match[1]}{int(match[2])}"


_FORMS: dict[Corpus, str] = {
    "coco": "391895, COCO_val2014_000000391895, coco-391895",
    "vg": "2375429, n161313, vg-2375429",
    "f30k": "1007129816, 1007129816.jpg, f30k-1007129816",
    "nlvr2": "train-10171-0-img0, nlvr2-train-10171-0-img0",
}


def corpus_of(image_id: str) -> str:
    """Return the corpus of a canonical id: `coco` of `coco-391895`."""
    return image_id.partition("-")[0]


def is_renumbered(image_id: str) -> bool:
    """Return whether an id is one of GQA's `n...`: a COCO image under a number that no published table translates."""
    return image_id.startswith("vg-n")


def in_order(image_ids: Iterable[str]) -> list[str]:
    """Sort canonical ids by corpus, then by number: coco-9 before coco-10."""
    return sorted(image_ids, key=lambda image_id: (corpus_of(image_id), len(image_id), image_id))


def split_corpus(path: str) -> tuple[Corpus, str]:
    """Split `vg:features.tsv` into corpus and path; a path without such a prefix is COCO's."""
    prefix, colon, rest = path.partition(":")
    for corpus in CORPORA:
        if colon and prefix == corpus:
            return corpus, rest
    return "coco", path
