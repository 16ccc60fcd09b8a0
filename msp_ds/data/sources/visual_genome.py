"""Visual Genome's region phrases and its twins in COCO.

The phrases of all 108,077 images make a JSON list of 700 MB; it is read image by image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from msp_ds.config import read_json
from msp_ds.data.identity import canonical_image_id
from msp_ds.errors import InputError

PHRASES = "Visual Genome's region_descriptions.json"
IMAGE_DATA = "Visual Genome's image_data.json"
_CHUNK = 1 << 20
_LONGEST_ITEM = 64 << 20
"""Characters of one image's entry; real ones are below 100,000."""


@dataclass(frozen=True, kw_only=True)
class PhraseFile:
    """The phrases of one file, as written."""

    by_image: dict[str, list[str]]
    """In the file's order; an image without phrases is absent."""
    num_empty: int
    """Phrases that are null or without a word, which are left out."""


def read_phrases(path: Path, *, twins: dict[str, str]) -> PhraseFile:
    """The region phrases of each image, under its COCO id where it has one among `twins`.

    Versions 1.0 to 1.4 are read alike: the image's number is `id` or `image_id`; of a region only `phrase` is asked.

    Raises: InputError naming file and entry when the file is missing, of another layout, or without any phrase.
    """
    by_image: dict[str, list[str]] = {}
    num_empty = 0
    for row, item in enumerate(_iterate_list(path)):
        image_id, regions = _read_image(item, where=f"{path} entry {row}")
        phrases = [_phrase(region, where=f"{path} entry {row}, image {image_id}") for region in regions]
        kept = [phrase for phrase in phrases if phrase]
        num_empty += len(phrases) - len(kept)
        if kept:
            by_image.setdefault(twins.get(image_id, image_id), []).extend(kept)
    if not by_image:
        raise InputError(f"{path} holds no phrase; it should be {PHRASES}")
    return PhraseFile(by_image=by_image, num_empty=num_empty)


def read_twins(path: Path) -> dict[str, str]:
    """`vg-N` -> `coco-M` for the images of Visual Genome that are COCO's too (51,208 of 108,077).

    Raises: InputError when the file is missing or of another layout.
    """
    items = read_json(path, what=IMAGE_DATA)
    if not isinstance(items, list):
        raise InputError(f"{path} is no list; it should be {IMAGE_DATA}")
    twins = {}
    for row, item in enumerate(items):
        where = f"{path} entry {row}"
        image_id = _image_id(item, where=where, what=IMAGE_DATA)
        coco_id = item.get("coco_id")
        if coco_id is not None:
            twins[image_id] = canonical_image_id(coco_id, corpus="coco", where=where)
    return twins


def _read_image(item: Any, *, where: str) -> tuple[str, list[Any]]:
    image_id = _image_id(item, where=where, what=PHRASES)
    regions = item.get("regions")
    if not isinstance(regions, list):
        raise InputError(f"{where}, image {image_id}: has no list 'regions'; it should be {PHRASES}")
    return image_id, regions


def _image_id(item: Any, *, where: str, what: str) -> str:
    raw = item.get("image_id", item.get("id")) if isinstance(item, dict) else None
    if not isinstance(raw, (int, str)):
        raise InputError(f"{where}: has neither id nor image_id; it should be {what}")
    return canonical_image_id(raw, corpus="vg", where=where)


def _phrase(region: Any, *, where: str) -> str:
    """A region's phrase, white space squeezed; empty where it is null."""
    if not isinstance(region, dict) or "phrase" not in region:
        raise InputError(f"{where}: a region has no phrase; it should be {PHRASES}")
    phrase = region["phrase"]
    if not isinstance(phrase, str | None):
        raise InputError(f"{where}: the phrase {phrase!r} is no text; it should be {PHRASES}")
    return " ".join((phrase or "").split())


def _iterate_list(path: Path) -> Iterator[Any]:
    """The items of a JSON list one by one, holding no more than one item and a chunk of text."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from _items(file, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be {PHRASES}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text; it should be {PHRASES}") from None


def _items(file: TextIO, path: Path) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text = file.read(_CHUNK).lstrip()
    if not text.startswith("["):
        raise InputError(f"{path} is no JSON list; it should be {PHRASES}")
    place = _skip(text, 1)
    while not text.startswith("]", place):
        try:
            item, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            # Most often the item goes on beyond the chunk.
            more = file.read(_CHUNK)
            if not more or len(text) - place > _LONGEST_ITEM:
                raise InputError(f"{path} is no readable JSON ({error.msg}); it is cut off or damaged") from None
            text, place = text[place:] + more, 0
        else:
            yield item
        place = _skip(text, place)


def _skip(text: str, place: int) -> int:
    """Past the white space and commas that stand between items."""
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place
