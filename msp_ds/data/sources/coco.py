"""COCO's captions: the JSON of captions_{train,val}2014.json and of every data set in its layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msp_ds.config import read_json
from msp_ds.data.identity import Corpus, canonical_image_id
from msp_ds.errors import InputError
from msp_ds.records import Caption


@dataclass(frozen=True, kw_only=True)
class CaptionFile:
    """The captions of one file."""

    by_image: dict[str, list[Caption]]
    """In the file's order; images without a caption are absent."""
    num_empty: int
    """Captions without a word in them, which are left out."""


def read_captions(path: Path, *, corpus: Corpus = "coco") -> CaptionFile:
    """The captions of a file in COCO's layout, white space squeezed (some of COCO's hold line feeds).

    Raises: InputError when the file is missing, of another layout, or holds no caption at all.
    """
    annotations = _annotations(read_json(path, what="captions in COCO's JSON layout"), path)
    by_image: dict[str, list[Caption]] = {}
    num_empty = 0
    for row, annotation in enumerate(annotations):
        caption = _read_annotation(annotation, corpus=corpus, where=f"{path} annotation {row}")
        if caption.text:
            by_image.setdefault(caption.image_id, []).append(caption)
        else:
            num_empty += 1
    if not by_image:
        raise InputError(f"{path} holds no caption ({num_empty} empty ones); it should be captions in COCO's layout")
    return CaptionFile(by_image=by_image, num_empty=num_empty)


def _annotations(value: Any, path: Path) -> list[Any]:
    annotations = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(annotations, list):
        raise InputError(f"{path} has no list 'annotations'; it should be captions in COCO's JSON layout")
    return annotations


def _read_annotation(annotation: Any, *, corpus: Corpus, where: str) -> Caption:
    raw = annotation.get("image_id") if isinstance(annotation, dict) else None
    if not isinstance(raw, (int, str)):
        raise InputError(f"{where}: has no image_id; it should be captions in COCO's JSON layout")
    text = annotation.get("caption")
    if not isinstance(text, str):
        raise InputError(f"{where}: has no caption; questions and instances files hold none")
    return Caption(image_id=canonical_image_id(raw, corpus=corpus, where=where), text=" ".join(text.split()))
