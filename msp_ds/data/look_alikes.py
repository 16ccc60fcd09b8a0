"""Lists of images that look alike, from which ITM_HS takes its replacements.

L images of the list, N images of a set, K look-alikes of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msp_ds.data.array_files import load_arrays
from msp_ds.data.identity import canonical_image_id
from msp_ds.errors import InputError
from msp_ds.records import IGNORE

LAYOUT = "an .npz with image_ids [L] and neighbours int32 [L, K], rows of image_ids, nearest first"


@dataclass(frozen=True, kw_only=True)
class LookAlikeList:
    """For each image of a list the others that look like it."""

    image_ids: tuple[str, ...]
    """Canonical, L of them."""
    neighbours: np.ndarray
    """int32 [L, K]: rows of image_ids, nearest first, -1 beyond the last; may name the image itself."""


def read_look_alikes(path: Path) -> LookAlikeList:
    """The list in a file; plain numbers among its ids are COCO's.

    Raises: InputError when the file is missing or of another layout; pickles, as ViLBERT's hard_negative.pkl, are
    refused.
    """
    image_ids, neighbours = load_arrays(path, ["image_ids", "neighbours"], what=LAYOUT).values()
    if (
        image_ids.ndim != 1
        or neighbours.ndim != 2
        or neighbours.dtype.kind not in "iu"
        or len(neighbours) != len(image_ids)
    ):
        raise InputError(f"{path}: image_ids and neighbours do not fit each other; it should be {LAYOUT}")
    if neighbours.size and not -1 <= neighbours.min() <= neighbours.max() < len(image_ids):
        raise InputError(f"{path}: neighbours name rows beyond the {len(image_ids)} images")
    canonical = tuple(
        canonical_image_id(raw, corpus="coco", where=f"{path} image_ids[{row}]")
        for row, raw in enumerate(image_ids.tolist())
    )
    if len(set(canonical)) != len(canonical):
        raise InputError(f"{path}: image_ids names an image twice")
    return LookAlikeList(image_ids=canonical, neighbours=neighbours.astype(np.int32))


def rows_within(look_alikes: LookAlikeList, *, keys: list[str]) -> np.ndarray:
    """The list in terms of a set: int32 [N, K], rows of `keys`, nearest first, -1 beyond the last.

    The image itself and images outside the set are dropped; an image that the list does not know gets -1 throughout.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    set_rows = np.array([row_of.get(image_id, IGNORE) for image_id in look_alikes.image_ids], dtype=np.int32)
    # One more entry for "nobody", which index -1 reaches.
    mapped = np.append(set_rows, np.int32(IGNORE))[look_alikes.neighbours]
    mapped[mapped == set_rows[:, None]] = IGNORE
    order = np.argsort(mapped == IGNORE, axis=1, kind="stable")
    known = set_rows >= 0
    rows = np.full((len(keys), mapped.shape[1]), IGNORE, dtype=np.int32)
    rows[set_rows[known]] = np.take_along_axis(mapped, order, axis=1)[known]
    return rows
