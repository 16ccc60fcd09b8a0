"""COCO's JSON layout: an object whose lists `images`, `annotations` and `questions` name images by number.

These are captions_{train,val}20{14,17}.json; where only the images are needed, also instances, image_info and VQA's.
"""

from collections.abc import Iterable, Iterator

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, iterate_items, require_mapping
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference, squeezed

_NAME = "COCO's JSON layout"


def _recognises(item: Item) -> bool:
    value = item.value
    if item.member == "images":
        return "id" in value and "sentences" not in value
    return item.member in {"annotations", "questions"} and "image_id" in value


def _mentions(items: Iterable[Item], file: TextReference) -> Iterator[Mention]:
    own = _own_ids(file) if file.corpus == "own" else None
    with_captions: bool | None = None
    for item in items:
        if item.member == "images":
            raw = require_mapping(item, "id", what=_NAME)["id"]
            yield Mention(_image_id(raw, file, own, where=item.where))
        elif item.member in {"annotations", "questions"}:
            value = require_mapping(item, "image_id", what=_NAME)
            with_captions = "caption" in value if with_captions is None else with_captions
            if with_captions is not ("caption" in value):
                raise InputError(f"{item.where}: has {'no' if with_captions else 'a'} caption, unlike those before it")
            captions = (squeezed(value["caption"], where=item.where),) if with_captions else ()
            yield Mention(_image_id(value["image_id"], file, own, where=item.where), captions=captions)


def _own_ids(file: TextReference) -> dict[str, str]:
    """Return number -> id by `file_name`: the numbers of own pictures mean nothing outside their file."""
    found = {}
    for item in iterate_items(file.path, what=_NAME):
        if item.member == "images":
            image = require_mapping(item, "id", "file_name", what=_NAME)
            found[str(image["id"])] = file.canonical(str(image["file_name"]), default="own", where=item.where)
    return found


def _image_id(raw: object, file: TextReference, own: dict[str, str] | None, *, where: str) -> str:
    if own is None:
        return file.canonical(raw, default="coco", where=where)
    if str(raw) not in own:
        raise InputError(f"{where}: image {raw!r} is not in the list images; add it with its id and file_name")
    return own[str(raw)]


COCO = TextFormat(name=_NAME, recognises=_recognises, mentions=_mentions)
