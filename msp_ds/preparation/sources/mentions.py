"""The common record of all text readers, an image with its texts, and references to text files."""

import os
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from msp_ds.data.format.image_ids import CORPORA, Corpus, canonical_image_id
from msp_ds.errors import InputError
from msp_ds.preparation.parsing.json_stream import Item


class Mention(NamedTuple):
    """One mention of an image in a file, with its texts; an image may have many."""

    image_id: str
    """Canonical."""
    captions: tuple[str, ...] = ()
    """Sentences about the whole image, white space squeezed; an empty one for null or blank."""
    phrases: tuple[str, ...] = ()
    """Phrases about parts of the image, squeezed in the same way."""


@dataclass(frozen=True, kw_only=True)
class TextReference:
    """A text file as a recipe names it: `data/captions.json`, `vg:ids.txt`, `dataset_coco.json#val+test`."""

    written: str
    path: Path
    corpus: Corpus | None
    """The corpus of plain numbers; None where it is not written."""
    splits: tuple[str, ...]
    """The chosen splits of a file that holds several; empty where none is written."""
    names: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Id of each own picture -> its name in the file."""

    def canonical(self, raw: object, *, default: Corpus, where: str) -> str:
        """Return the canonical id of `raw`; plain numbers are of `default` unless the reference names a corpus.

        Raises: InputError when it is not an image id, and for two names of own pictures with one id.
        """
        if not isinstance(raw, (int, str)):
            raise InputError(f"{where}: {raw!r} is not an image id")
        corpus = self.corpus or default
        found = canonical_image_id(raw, corpus=corpus, where=where)
        name = str(raw)
        if corpus == "own" and name != found and not _may_be_one(name, first := self.names.setdefault(found, name)):
            raise InputError(f"{where}: {first} and {name} would both be image {found}; rename one of them")
        return found


def _may_be_one(name: str, other: str) -> bool:
    """Whether two names may be one file's: they are equal, or the shorter one lacks only the folder or the ending."""
    shorter, longer = sorted((name, other), key=len)
    return shorter in (longer, PurePosixPath(longer).name, PurePosixPath(longer).stem)


def parse_reference(written: str) -> TextReference:
    """Parse `[corpus:]FILE[#split+split]`, as recipes and flags have it."""
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
    """A layout of text files: how to recognise it and how to read it."""

    name: str
    """For messages: `it should be NAME`."""
    recognises: Callable[[Item], bool]
    """Whether this item, an object, is of the layout."""
    mentions: Callable[[Iterable[Item], TextReference], Iterator[Mention]]
    """Yields the images of a file. Raises: InputError with the position of a malformed item."""
    has_splits: bool = False
    """Whether `#split` may select images of the file."""


def squeezed(text: Any, *, where: str) -> str:
    """Return a text with its white space squeezed, an empty one for null. Raises: InputError as plain_text."""
    if text is None:
        return ""
    return " ".join(plain_text(text, where=where).split())


def plain_text(value: Any, *, where: str) -> str:
    """Return a text unchanged. Raises: InputError for other values, and for lone surrogates, which JSON may hold."""
    if not isinstance(value, str):
        raise InputError(f"{where}: {reprlib.repr(value)} is not a text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where}: {reprlib.repr(value)} holds half a character, which no file can store")
    return value


def squeezed_list(texts: Any, *, where: str) -> tuple[str, ...]:
    """Return the squeezed texts of a list. Raises: InputError for anything but a list of texts."""
    if not isinstance(texts, list):
        raise InputError(f"{where}: {reprlib.repr(texts)} is not a list of texts")
    return tuple(squeezed(text, where=where) for text in texts)
