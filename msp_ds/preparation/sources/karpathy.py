"""Karpathy's splits, dataset_coco.json and dataset_flickr30k.json: one entry an image with its split and sentences."""

from collections.abc import Iterable, Iterator
from typing import Any

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, require_mapping
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference, squeezed

TRAINING_SPLITS = ("train", "restval")
"""The usual training split of Karpathy: 113,287 images of COCO. Flickr30k has no restval."""
_NAME = "Karpathy's dataset_coco.json or dataset_flickr30k.json"


def _mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    """Yield the images of the splits in the reference, or of train and restval.

    Raises: InputError for a malformed image and for a split that no image has.
    """
    wanted = file.splits or TRAINING_SPLITS
    seen: set[str] = set()
    for item in items:
        if item.member == "images":
            image = require_mapping(item, "split", "filename", "sentences", what=_NAME)
            split = squeezed(image["split"], where=item.where)
            seen.add(split)
            if split in wanted:
                yield Mention(_image_id(image, file, where=item.where), captions=_captions(image, where=item.where))
    absent = [split for split in file.splits if split not in seen]
    if absent:
        raise InputError(f"{file.path} has no split {absent[0]!r}; its splits are {', '.join(sorted(seen))}")


def _image_id(image: dict[str, Any], file: TextReference, *, where: str) -> str:
    """Return the id by `cocoid` or, for Flickr30k and own pictures, the file name; `imgid` numbers the entries."""
    if "cocoid" in image and file.corpus != "own":
        return file.canonical(image["cocoid"], default="coco", where=where)
    return file.canonical(image["filename"], default="f30k", where=where)


def _captions(image: dict[str, Any], *, where: str) -> tuple[str, ...]:
    sentences = image["sentences"]
    if not isinstance(sentences, list) or not all(isinstance(one, dict) and "raw" in one for one in sentences):
        raise InputError(f"{where}: a sentence has no 'raw'; it should be {_NAME}")
    return tuple(squeezed(sentence["raw"], where=where) for sentence in sentences)


KARPATHY = TextFormat(
    name=_NAME,
    recognises=lambda item: item.member == "images" and "sentences" in item.value and "split" in item.value,
    mentions=_mentions,
    has_splits=True,
)
