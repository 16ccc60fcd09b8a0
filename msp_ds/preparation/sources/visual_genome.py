"""Visual Genome's region phrases and its duplicates in COCO.

Its files are lists with one entry an image: region_descriptions.json and, where only the images are needed, image_data,
objects, attributes, relationships and question_answers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msp_ds.data.format.image_ids import canonical_image_id
from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, iterate_items, require_mapping
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference, squeezed

_PHRASES = "Visual Genome's region_descriptions.json"
_IMAGE_DATA = "Visual Genome's image_data.json"
_LISTS = frozenset({"regions", "objects", "attributes", "relationships", "qas"})


@dataclass(frozen=True, kw_only=True)
class CocoDuplicates:
    """Table of the Visual Genome images that are also in COCO: 51,208 of 108,077."""

    coco_of: dict[str, str]
    """`vg-N` -> `coco-M`."""
    images: frozenset[str]
    """All images of Visual Genome in the table, `vg-N`."""

    def picture(self, image_id: str) -> str:
        """Return one name for each photograph: the COCO id of a duplicate, any other id unchanged."""
        return self.coco_of.get(image_id, image_id)


NO_DUPLICATES = CocoDuplicates(coco_of={}, images=frozenset())
"""The empty table, for runs without image_data.json."""


def read_duplicates(path: Path) -> CocoDuplicates:
    """Read the table of duplicates from image_data.json.

    Raises: InputError when the file is missing, of another layout, or empty.
    """
    coco_of: dict[str, str] = {}
    images: set[str] = set()
    file = TextReference(written=str(path), path=path, corpus=None, splits=())
    for item in iterate_items(path, what=_IMAGE_DATA):
        image_id = _image_id(item, file, what=_IMAGE_DATA)
        images.add(image_id)
        coco_id = item.value.get("coco_id")
        if coco_id is not None:
            coco_of[image_id] = canonical_image_id(coco_id, corpus="coco", where=item.where)
    if not images:
        raise InputError(f"{path} is not a list of images; it should be {_IMAGE_DATA}")
    return CocoDuplicates(coco_of=coco_of, images=frozenset(images))


def _recognises(item: Item) -> bool:
    return item.member == "" and ("image_id" in item.value or "id" in item.value) and _is_known(item.value)


def _is_known(value: dict[str, Any]) -> bool:
    """Whether an image's entry has a key of one of Visual Genome's files."""
    return not _LISTS.isdisjoint(value) or "coco_id" in value


def _mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    """Yield the images of versions 1.0 to 1.4: the id is `id` or `image_id`, of a region only `phrase` is needed."""
    for item in items:
        image_id = _image_id(item, file, what=_PHRASES)
        regions = item.value.get("regions", [])
        where = f"{item.where}, image {image_id}"
        if not isinstance(regions, list) or not _is_known(item.value):
            raise InputError(f"{where}: has no list 'regions'; it should be {_PHRASES}")
        yield Mention(image_id, phrases=tuple(_phrase(region, where=where) for region in regions))


def _image_id(item: Item, file: TextReference, *, what: str) -> str:
    value = require_mapping(item, what=what)
    raw = value.get("image_id", value.get("id"))
    if raw is None:
        raise InputError(f"{item.where}: has neither id nor image_id; it should be {what}")
    return file.canonical(raw, default="vg", where=item.where)


def _phrase(region: Any, *, where: str) -> str:
    if not isinstance(region, dict) or "phrase" not in region:
        raise InputError(f"{where}: a region has no phrase; it should be {_PHRASES}")
    return squeezed(region["phrase"], where=where)


VISUAL_GENOME = TextFormat(name=_PHRASES, recognises=_recognises, mentions=_mentions)
