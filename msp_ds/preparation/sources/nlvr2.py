"""NLVR2: statements about two images, in the official JSON lines or in LXMERT's list.

Official: {identifier: split-set-pair-sentence, sentence, label: "True" or "False"}; the images are named by the pair.
LXMERT: {identifier, img0, img1, label: 0 or 1, sent, uid}.
"""

from collections.abc import Iterator
from typing import Any

from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item, iterate_items, require_mapping
from msp_ds.preparation.sources.mentions import TextReference, parse_reference, squeezed
from msp_ds.preparation.sources.questions import Question, each_once, id_text

_STATEMENTS = "NLVR2's statements, each with identifier and sentence, or LXMERT's with img0, img1 and sent"
_LABELS = {"true": "True", "false": "False", "1": "True", "0": "False"}


def read_nlvr2(written: str) -> tuple[Question, ...]:
    """Return the statements of a file; each has the answer "True" or "False", or none in a hidden test split.

    Raises: InputError when the file is missing, damaged, of another layout or names a statement twice.
    """
    return tuple(each_once(_statements(written), path=written))


def _statements(written: str) -> Iterator[Question]:
    file = parse_reference(written)
    for item in iterate_items(file.path, what=_STATEMENTS):
        entry = require_mapping(item, "identifier", what=_STATEMENTS)
        identifier = id_text(entry["identifier"], where=item.where)
        if len(identifier.split("-")) != 4:
            raise InputError(f"{item.where}: the identifier {identifier!r} should be split-set-pair-sentence")
        yield Question(
            question_id=identifier,
            image_ids=_images(entry, identifier, item, file),
            text=squeezed(_sentence(entry, item), where=item.where),
            answers=_label(entry, item),
        )


def _sentence(entry: dict[str, Any], item: Item) -> Any:
    for name in ("sentence", "sent"):
        if name in entry:
            return entry[name]
    raise InputError(f"{item.where}: has no sentence; it should be {_STATEMENTS}")


def _images(entry: dict[str, Any], identifier: str, item: Item, file: TextReference) -> tuple[str, ...]:
    pair = identifier.rpartition("-")[0]
    names = (entry.get(f"img{side}", f"{pair}-img{side}") for side in (0, 1))
    return tuple(file.canonical(name, default="nlvr2", where=item.where) for name in names)


def _label(entry: dict[str, Any], item: Item) -> tuple[str, ...]:
    if "label" not in entry:
        return ()
    label = _LABELS.get(str(entry["label"]).lower())
    if label is None:
        raise InputError(f"{item.where}: the label {entry['label']!r} is neither True nor False")
    return (label,)
