"""Image files for pages: found in a folder, made small, and packed into the page itself."""

import base64
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from msp_ds.data.format.faults import RowError
from msp_ds.data.format.image_ids import CORPORA, canonical_image_id, corpus_of
from msp_ds.errors import InputError
from msp_ds.regions.pictures import ENDINGS, open_picture

LONGEST_SIDE = 640
"""Pixels: a page with a dozen pictures stays below a megabyte."""


def find_pictures(folder: Path, image_ids: Iterable[str]) -> dict[str, Path]:
    """Return the files of the canonical ids that have one in `folder` or below it.

    `coco-391895` is 391895.jpg, 000000391895.jpg or COCO_val2014_000000391895.jpg; a plain number belongs to any
    corpus of `image_ids`. `own-img-2031` is IMG_2031.JPG. Raises: InputError when there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the image files, such as val2014")
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
                ids = {
                    image_id for corpus in corpora if (image_id := _image_id(name if corpus == "own" else stem, corpus))
                }
                found |= {image_id: Path(place, name) for image_id in ids & wanted - found.keys()}
    return found


def open_pictures(folder: Path | None, samples: Iterable[Mapping[str, Any]]) -> dict[str, Image.Image]:
    """Open the pictures of images by id, at most LONGEST_SIDE pixels: picture files, and images with one in `folder`.

    samples: images as `Model.describe` gives them. Raises: InputError for a folder or a file that cannot be read.
    """
    files: dict[str, Path | None] = {sample["image_id"]: sample.get("file") for sample in samples}
    found = {} if folder is None else find_pictures(folder, [name for name, file in files.items() if file is None])
    return {name: _small(path) for name, file in files.items() if (path := file or found.get(name))}


def as_data_address(picture: Image.Image) -> str:
    """Return a picture as a data: address, fit for a page."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _image_id(stem: str, corpus: str) -> str | None:
    try:
        return canonical_image_id(stem, corpus=corpus, where=stem)  # type: ignore[arg-type]
    except InputError:
        return None


def _small(path: Path) -> Image.Image:
    try:
        picture = Image.fromarray(open_picture(path))
    except RowError as error:
        raise InputError(f"{error}; take it out of the folder") from None
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return picture
