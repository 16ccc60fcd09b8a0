"""Captions for retrieval: ViLBERT's .jsonline files and the JSON lists of LXMERT-S, one image with its sentences each.

ViLBERT's all_data_final_*.jsonline exist for Flickr30k and for COCO; LXMERT-S' flickr30k_{train,test}2014.json is a
list of the same objects without an `id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, require_mapping
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference, squeezed_list

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
