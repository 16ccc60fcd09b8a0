"""Lists of captions: of retrieval, one image with its sentences each, and of one's own pictures, one caption each.

ViLBERT's all_data_final_*.jsonline exist for Flickr30k and for COCO; LXMERT-S' flickr30k_{train,test}2014.json is a
list of the same objects without an `id`. Captions of one's own pictures are CSV, JSON lines or a JSON list of `file`
and `caption`; `image_id` may stand in place of `file`, and further columns are not needed.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from msp_ds.data.format.image_ids import corpus_of_names
from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, iterate_items, require_mapping
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference, squeezed, squeezed_list

_NAME = "ViLBERT's .jsonline or LXMERT-S' Flickr30k list of img_path and sentences"
_COCO_2017_DIGITS = 12
"""Digits of a COCO 2017 file name; Flickr30k's numbers, which are Flickr's, have at most 10."""


def _recognises(item: Item) -> bool:
    return item.member == "" and "sentences" in item.value and ("img_path" in item.value or "id" in item.value)


def _mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    for item in items:
        image = require_mapping(item, "sentences", what=_NAME)
        image_id = _image_id(image, file, where=item.where)
        yield Mention(image_id, captions=squeezed_list(image["sentences"], where=item.where))


def _image_id(image: dict[str, Any], file: TextReference, *, where: str) -> str:
    """Return the id by `img_path`; ViLBERT's `id` is COCO's number, but for Flickr30k only a running number.

    A plain number as file name is Flickr30k's, unless it is padded like COCO's or the file was named as `coco:`.
    """
    path, number = image.get("img_path"), image.get("id")
    if path is None or (file.corpus == "coco" and number is not None):
        if number is None:
            raise InputError(f"{where}: has neither img_path nor id; it should be {_NAME}")
        return file.canonical(number, default="coco", where=where)
    name = PurePosixPath(str(path)).name
    padded = len(name.partition(".")[0]) == _COCO_2017_DIGITS
    return file.canonical(name, default="coco" if padded else "f30k", where=where)


RETRIEVAL_LISTS = TextFormat(name=_NAME, recognises=_recognises, mentions=_mentions)

_OWN = "CSV with the header file,caption (or image_id,caption), or JSON lines with these keys"


def _names_caption(item: Item) -> bool:
    return item.member == "" and "caption" in item.value and not {"file", "image_id"}.isdisjoint(item.value)


def _own_mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    names = (_name(item) for item in iterate_items(file.path, what=_OWN))
    corpus = file.corpus or corpus_of_names(PurePosixPath(name).stem for name in names)
    for item in items:
        name = _name(item)
        name = name if corpus == "own" else PurePosixPath(name).stem
        image_id = file.canonical(name, default=corpus, where=item.where)
        yield Mention(image_id, captions=(squeezed(item.value["caption"], where=item.where),))


def _name(item: Item) -> str:
    """Return the image's id or file as written. Raises: InputError where it or the caption is missing."""
    value = require_mapping(item, "caption", what=_OWN)
    return str(value["image_id"] if "image_id" in value else require_mapping(item, "file", what=_OWN)["file"])


OWN_CAPTIONS = TextFormat(name=_OWN, recognises=_names_caption, mentions=_own_mentions)
