"""Where the image files of canonical ids lie in a folder, whatever corpus named them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from msp_ds.data.format.image_ids import CORPORA, canonical_image_id, corpus_of
from msp_ds.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png")


def find_pictures(folder: Path, image_ids: Iterable[str]) -> dict[str, Path]:
    """The file of each canonical id that has one in `folder` or below it; others are left out.

    `coco-391895` is 391895.jpg, 000000391895.jpg or COCO_val2014_000000391895.jpg; plain numbers are of whatever
    corpus is asked for. Raises: InputError when there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that holds the image files, as val2014")
    wanted = set(image_ids)
    corpora = [corpus for corpus in CORPORA if corpus in {corpus_of(image_id) for image_id in wanted}]
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            if len(found) == len(wanted):
                return found
            if ending.lower() in ENDINGS:
                ids = {image_id for corpus in corpora if (image_id := _named(stem, corpus))}
                found |= {image_id: Path(place, name) for image_id in ids & wanted - found.keys()}
    return found


def _named(stem: str, corpus: str) -> str | None:
    """The canonical id that a file's name gives; None for other files of the folder."""
    try:
        return canonical_image_id(stem, corpus=corpus, where=stem)  # type: ignore[arg-type]
    except InputError:
        return None
