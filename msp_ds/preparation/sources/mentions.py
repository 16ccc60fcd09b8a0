"""What every reader of a text file gives: image after image, with what is said about it."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from msp_ds.data.format.image_ids import CORPORA, Corpus, canonical_image_id
from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item


class Mention(NamedTuple):
    """One place where a file speaks of an image; an image may have many."""

    image_id: str
    """Canonical."""
    captions: tuple[str, ...] = ()
    """Sentences about the whole image, white space squeezed; empty where the file's is null or blank."""
    phrases: tuple[str, ...] = ()
    """Phrases about parts of it, likewise."""


@dataclass(frozen=True, kw_only=True)
class TextReference:
    """A text file as a recipe names it: `data/captions.json`, `vg:ids.txt`, `dataset_coco.json#val+test`."""

    written: str
    path: Path
    corpus: Corpus | None
    """What plain numbers mean, where that was said."""
    splits: tuple[str, ...]
    """Which splits of a file that holds several; empty where that was not said."""

    def canonical(self, raw: object, *, default: Corpus, where: str) -> str:
        """The canonical id of an image that the file calls `raw`; plain numbers are of `default` unless it was said.

        Raises: InputError when it is none.
        """
        if not isinstance(raw, (int, str)):
            raise InputError(f"{where}: {raw!r} is no image id")
        return canonical_image_id(raw, corpus=self.corpus or default, where=where)


def parse_reference(written: str) -> TextReference:
    """What a recipe or a flag means by `[corpus:]FILE[#split+split]`."""
    corpus: Corpus | None = None
    prefix, colon, rest = written.partition(":")
    for known in CORPORA:
        if colon and prefix == known:
            corpus, written_path = known, rest
            break
    else:
        written_path = written
    path, mark, splits = written_path.rpartition("#")
    if not mark or os.path.exists(written_path):
        return TextReference(written=written, path=Path(written_path), corpus=corpus, splits=())
    return TextReference(written=written, path=Path(path), corpus=corpus, splits=tuple(splits.split("+")))


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """A kind of text file: how to know it and how to read it."""

    name: str
    """As in `it should be NAME`."""
    recognises: Callable[[Item], bool]
    """Whether a file with this item, which is an object, is of the layout."""
    mentions: Callable[[Iterable[Item], TextReference], Iterator[Mention]]
    """The images of a file of the layout. Raises: InputError with the place of what is not as it should be."""
    has_splits: bool = False
    """Whether `#split` may choose a part of the file."""


def squeezed(text: Any, *, where: str) -> str:
    """A text with its white space squeezed; empty for null.

    Raises: InputError for what is no text.
    """
    if text is None:
        return ""
    return " ".join(plain_text(text, where=where).split())


def plain_text(value: Any, *, where: str) -> str:
    """A text as it is. Raises: InputError for anything else, and for half a character, as JSON may hold it."""
    if not isinstance(value, str):
        raise InputError(f"{where}: {reprlib.repr(value)} is no text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where}: {reprlib.repr(value)} holds half a character, which no file can store")
    return value


def squeezed_list(texts: Any, *, where: str) -> tuple[str, ...]:
    """The texts of a list. Raises: InputError for what is no list of texts."""
    if not isinstance(texts, list):
        raise InputError(f"{where}: {reprlib.repr(texts)} is no list of texts")
    return tuple(squeezed(text, where=where) for text in texts)
