"""Read any file of captions, phrases or image ids; its layout is recognised by its content, not by its name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msp_ds.data.format.text import is_blank
from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import has_csv_header, iterate_items, readable
from msp_ds.preparation.parsing.text_table import TextTable
from msp_ds.preparation.sources.caption_lists import OWN_CAPTIONS, RETRIEVAL_LISTS
from msp_ds.preparation.sources.coco import COCO
from msp_ds.preparation.sources.karpathy import KARPATHY
from msp_ds.preparation.sources.lxmert import LXMERT
from msp_ds.preparation.sources.mentions import Mention, TextFormat, TextReference, parse_reference
from msp_ds.preparation.sources.question_files import GQA, LXMERT_QUESTIONS, NLVR2
from msp_ds.preparation.sources.visual_genome import VISUAL_GENOME

TextKind = Literal["caption", "phrase"]

_WITH_CAPTIONS = (COCO, KARPATHY, RETRIEVAL_LISTS, LXMERT, OWN_CAPTIONS)
LAYOUTS: tuple[TextFormat, ...] = (*_WITH_CAPTIONS, VISUAL_GENOME, GQA, NLVR2, LXMERT_QUESTIONS)
"""All layouts; an item is of at most one of them."""

_WITH_TEXT: dict[TextKind, tuple[TextFormat, ...]] = {
    "caption": _WITH_CAPTIONS,
    "phrase": (VISUAL_GENOME, LXMERT),
}
_OTHER_KIND_MEANT: dict[TextKind, str] = {
    "caption": "its phrases are for --phrases",
    "phrase": "phrases are cut from its captions with --captions FILE --phrases from-captions",
}
_HEAD = 1 << 12
"""Characters that distinguish JSON from lines of text."""
_ID_LIST = "image ids, one a line or a JSON list"


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """The captions or the phrases of one file."""

    layout: TextFormat
    by_image: TextTable
    """Texts in the file's order; images without one are absent."""
    num_empty: int
    """Texts that were left out: null, blank or only zero-width characters."""


def read_texts(written: str, kind: TextKind) -> TextFile:
    """Read the captions or the phrases in `[corpus:]FILE[#split+split]`, white space squeezed.

    Raises: InputError when the file is missing, damaged, of no known layout, or holds no such text.
    """
    file = parse_reference(written)
    what = f"{kind}s in {' or '.join(layout.name for layout in _WITH_TEXT[kind])}"
    layout = recognise(file, what=what)
    if layout is None:
        raise InputError(f"{file.path} holds no {kind} in a known layout; it should be {what}")
    by_image = TextTable()
    num_empty = num_of_other_kind = 0
    for mention in _mentions(file, layout):
        texts, others = mention.captions, mention.phrases
        if kind == "phrase":
            texts, others = others, texts
        kept = [text for text in texts if not is_blank(text)]
        num_empty += len(texts) - len(kept)
        num_of_other_kind += len(others)
        by_image.add(mention.image_id, kept)
    if not by_image:
        hint = _OTHER_KIND_MEANT[kind] if num_of_other_kind else f"it should be {what}"
        raise InputError(f"{file.path} holds no {kind} ({num_empty} empty ones), but is {layout.name}; {hint}")
    return TextFile(layout=layout, by_image=by_image, num_empty=num_empty)


def read_image_ids(written: str) -> frozenset[str]:
    """Read the canonical ids of all images in `[corpus:]FILE[#split+split]`, a text file or a list of ids.

    A file with several splits needs a choice; no default is guessed.

    Raises: InputError when the file is missing, damaged, of no known layout, names no image, or no split is chosen.
    """
    file = parse_reference(written)
    what = f"{_ID_LIST}, or any file of captions, phrases or questions"
    layout = recognise(file, what=what) if (has_items := _has_items(file.path, what=what)) else None
    if layout is not None:
        if layout.has_splits and not file.splits:
            raise InputError(
                f"{written} holds several splits; choose some, as in {written}#test or {written}#train+restval"
            )
        image_ids = frozenset(mention.image_id for mention in _mentions(file, layout))
    else:
        _refuse_splits(file, "a list of image ids")
        image_ids = frozenset(_ids_in_list(file, what) if has_items else _ids_in_lines(file, what))
    if not image_ids:
        raise InputError(f"{file.path} names no image; it should be {what}")
    return image_ids


def recognise(file: TextReference, *, what: str) -> TextFormat | None:
    """Return the layout of a JSON file by the first item that belongs to one; None for an unknown layout.

    Raises: InputError when the file is missing or damaged.
    """
    for item in iterate_items(file.path, what=what):
        if isinstance(item.value, dict):
            for layout in LAYOUTS:
                if layout.recognises(item):
                    return layout
    return None


def _mentions(file: TextReference, layout: TextFormat) -> Iterator[Mention]:
    if not layout.has_splits:
        _refuse_splits(file, layout.name)
    return layout.mentions(iterate_items(file.path, what=layout.name), file)


def _refuse_splits(file: TextReference, name: str) -> None:
    if file.splits:
        raise InputError(f"{file.path} has no splits to choose #{'+'.join(file.splits)} from; it is {name}")


def _has_items(path: Path, *, what: str) -> bool:
    """Whether a file is a CSV, or its first character opens a list or an object."""
    with readable(path, what=what) as file:
        return has_csv_header(file) or file.read(_HEAD).lstrip()[:1] in ("[", "{")


def _ids_in_list(file: TextReference, what: str) -> Iterator[str]:
    for item in iterate_items(file.path, what=what):
        if item.member or not isinstance(item.value, (str, int)):
            raise InputError(f"{item.where}: is not an image id, and its layout is unknown; it should be {what}")
        yield file.canonical(item.value, default="coco", where=item.where)


def _ids_in_lines(file: TextReference, what: str) -> Iterator[str]:
    """Yield the ids between white space: bottom-up attention's lists have two names a line. # starts a comment.

    Names of own pictures may have blanks and #, so they have a line each.
    """
    with readable(file.path, what=what) as lines:
        for number, line in enumerate(lines, start=1):
            words = line.partition("#")[0].split()
            if file.corpus == "own":
                words = [line.strip()] if words else []
            for word in words:
                yield file.canonical(word, default="coco", where=f"{file.path} line {number}")
