"""Canonical image ids, the same in every corpus file: `coco-391895`, `vg-2375429`, `nlvr2-train-10171-0-img0`.

Pictures of one's own are named by their files: `own-img-2031` is `IMG_2031.JPG`. Ids are ASCII without dots, so that
they can be the keys of tar members. Two ids may still name one photograph: `CocoDuplicates` in
preparation/sources/visual_genome.py lists the images of Visual Genome that are COCO's.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from msp_ds.errors import InputError

Corpus = Literal["own", "coco", "vg", "f30k", "nlvr2", "world"]
"""The corpus of a file's images, which decides what a plain number or a file's name means; `world` is the demo's."""

CORPORA: tuple[Corpus, ...] = get_args(Corpus)

_NLVR2 = r"(?:train|dev|test1|test2)-\d+-\d+-img[01]"
_CANONICAL = re.compile(rf"nlvr2-{_NLVR2}|own-[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_CANONICAL_NUMBER = re.compile(r"(coco|f30k|vg|world)-((?<=vg-)n)?(\d{1,18})", re.ASCII)
_COCO_SPLITS = "train2014|val2014|test2014|test2015|train2017|val2017|test2017|unlabeled2017"
_COCO_FILE = re.compile(rf"COCO_(?:{_COCO_SPLITS})_(\d{{12}})(?:\.jpg)?", re.ASCII)
_NLVR2_FILE = re.compile(rf"({_NLVR2})(?:\.\w+)?", re.ASCII)
# GQA's test images are COCO images under new numbers that start with n.
_NUMBER = re.compile(r"(n?)(\d{1,18})(?:\.jpg)?", re.ASCII)
_OTHER_CHARACTERS = re.compile(r"[^a-z0-9]+")
_LONGEST_SLUG = 80
"""Characters: the name of a tar's member has 100."""


def own_image_id(name: str | Path) -> str:
    """Return the id of a picture of one's own by its file's name: `own-cafe-2` for `photos/Café (2).jpg`.

    Accents, case, folder and ending do not count, so two files may have one id. Names without an ASCII letter or digit
    and very long ones have a hash.
    """
    path = Path(unicodedata.normalize("NFKD", str(name)))
    stem = path.name if path.suffix[1:].isdecimal() else path.stem  # 2031 in `IMG.2031` is not an ending
    slug = _OTHER_CHARACTERS.sub("-", stem.encode("ascii", "ignore").decode().lower()).strip("-")
    if not 0 < len(slug) <= _LONGEST_SLUG:
        digits = hashlib.sha256(path.name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
        slug = f"{slug[: _LONGEST_SLUG - 9].strip('-')}-{digits}".strip("-")
    return f"own-{slug}"


def corpus_of_names(names: Iterable[str]) -> Corpus:
    """Return the corpus of file names where none is written: `own`, unless each name alone says what it is.

    Such names, as COCO_val2014_000000391895.jpg or coco-391895, mean the same in all other corpora.
    """
    return "coco" if all(_self_telling_id(name.strip()) for name in names) else "own"


def canonical_image_id(raw: str | int, *, corpus: Corpus, where: str, own: str = "own:FILE") -> str:
    """Return the canonical id of an image that a file of `corpus` calls `raw`.

    The corpus decides what a number means. Canonical ids mean the same in every corpus, and names such as
    `COCO_val2014_000000391895` or `train-10171-0-img0` in all but `own`, which takes any name.

    Raises: InputError for any other form, naming `where` (file and row) and `own`, the file as one's own.
    """
    text = raw.strip() if isinstance(raw, str) else str(raw)
    if corpus == "own" and text and not isinstance(raw, bool):
        return _canonical(text) or own_image_id(text)
    if found := _self_telling_id(text):
        return found
    match = _NUMBER.fullmatch(text)
    if match is None or isinstance(raw, bool) or corpus in ("own", "nlvr2") or (match[1] and corpus != "vg"):
        way_out = f"; for pictures of your own write {own}, and name the image of a caption by its file or id"
        fix = f"known forms are {_FORMS[corpus]}{way_out if corpus != 'own' else ''}"
        raise InputError(f"{where}: {raw!r} is no image id of {corpus}; {fix}")
    return f"{corpus}-{match[1]}{int(match[2])}"


def _canonical(text: str) -> str:
    """Return the canonical id that a text spells; empty for any other text."""
    if match := _CANONICAL_NUMBER.fullmatch(text):
        return f"{match[1]}-{match[2] or ''}{int(match[3])}"
    return text if len(text) <= len("own-") + _LONGEST_SLUG and _CANONICAL.fullmatch(text) else ""


def _self_telling_id(text: str) -> str:
    """Return the id of a text that names its corpus; empty for any other text."""
    if found := _canonical(text):
        return found
    if match := _COCO_FILE.fullmatch(text):
        return f"coco-{int(match[1])}"
    match = _NLVR2_FILE.fullmatch(text)
    return f"nlvr2-{match[1]}" if match else ""


_FORMS: dict[Corpus, str] = {
    "own": "the names of files, own-img-2031",
    "coco": "391895, COCO_val2014_000000391895, coco-391895",
    "vg": "2375429, n161313, vg-2375429",
    "f30k": "1007129816, 1007129816.jpg, f30k-1007129816",
    "nlvr2": "train-10171-0-img0, nlvr2-train-10171-0-img0",
    "world": "391895, world-391895",
}


def corpus_of(image_id: str) -> str:
    """Return the corpus of a canonical id: `coco` of `coco-391895`."""
    return image_id.partition("-")[0]


def is_renumbered(image_id: str) -> bool:
    """Return whether an id is one of GQA's `n...`: a COCO image under a number that no published table translates."""
    return image_id.startswith("vg-n")


def in_order(image_ids: Iterable[str]) -> list[str]:
    """Sort canonical ids by corpus, then by number: coco-9 before coco-10; own ids by length, then by letter."""
    return sorted(image_ids, key=lambda image_id: (corpus_of(image_id), len(image_id), image_id))


def split_corpus(path: str) -> tuple[Corpus, str]:
    """Split `vg:features.tsv` into corpus and path; a path without such a prefix is COCO's."""
    prefix, colon, rest = path.partition(":")
    for corpus in CORPORA:
        if colon and prefix == corpus:
            return corpus, rest
    return "coco", path
