"""Image files for pages: found, made small, and packed into the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from msp_ds.errors import InputError
from msp_ds.report.pages.picture_files import find_pictures
from msp_ds.storage.file_kinds import refuse_other_kind

LONGEST_SIDE = 640
"""Pixels: a page with a dozen pictures stays below a megabyte."""


def open_pictures(folder: Path | None, image_ids: Iterable[str]) -> dict[str, Image.Image]:
    """The pictures of those ids that have a file in `folder`, at most LONGEST_SIDE pixels; none without a folder.

    Raises: InputError for a folder or a file that cannot be read.
    """
    if folder is None:
        return {}
    return {image_id: _opened(path) for image_id, path in find_pictures(folder, image_ids).items()}


def packed(picture: Image.Image | None) -> str:
    """A picture as a data: address, fit for a page; empty for None."""
    if picture is None:
        return ""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _opened(path: Path) -> Image.Image:
    refuse_other_kind(path, what="a picture")
    try:
        with Image.open(path) as picture:
            small: Image.Image = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable picture ({error}); take it out of the folder") from None
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return small
