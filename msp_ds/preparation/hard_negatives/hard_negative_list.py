"""Lists of hard negatives, from which ITM_HS draws its replacement images.

L images of the list, N images of a set, K hard negatives of an image.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msp_ds.data.format.image_ids import canonical_image_id
from msp_ds.data.format.set_tables import npz_bytes
from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.storage.array_files import load_arrays
from msp_ds.storage.atomic_files import sync_folder, write_atomically

_ROWS_AT_ONCE = 1024
LAYOUT = "an .npz with image_ids [L] and neighbours int32 [L, K], rows of image_ids, nearest first"


@dataclass(frozen=True, kw_only=True)
class HardNegativeList:
    """The hard negatives of each image of a list."""

    image_ids: tuple[str, ...]
    """Canonical, L of them."""
    neighbours: np.ndarray
    """int32 [L, K]: rows of image_ids, nearest first, -1 beyond the last; may name the image itself."""

    @property
    def sha256(self) -> str:
        """Hash of image_ids, one a line: `neighbours` are rows of exactly this list of images."""
        return hashlib.sha256("\n".join(self.image_ids).encode()).hexdigest()


def read_hard_negatives(path: Path) -> HardNegativeList:
    """Read a list from an .npz; plain numbers among its ids are COCO's.

    Raises: InputError when the file is missing, of another layout or a pickle such as ViLBERT's hard_negative.pkl, or
    when it holds the hash of another list of images.
    """
    if path.suffix == ".pkl":
        raise InputError(
            f"{path} is a pickle; make it {path.stem}.npz with: msp-ds hard-negatives --import {path} --out FILE"
        )
    arrays = load_arrays(path, ["image_ids", "neighbours"], what=LAYOUT, optional=["sha256"])
    image_ids, neighbours = arrays["image_ids"], arrays["neighbours"]
    if image_ids.ndim != 1 or neighbours.ndim != 2 or neighbours.dtype.kind not in "iu":
        raise InputError(f"{path}: image_ids and neighbours do not match; it should be {LAYOUT}")
    canonical = [
        canonical_image_id(raw, corpus="coco", where=f"{path} image_ids[{row}]")
        for row, raw in enumerate(image_ids.tolist())
    ]
    hard_negatives = checked_list(canonical, neighbours, where=path)
    if "sha256" in arrays and str(arrays["sha256"]) != hard_negatives.sha256:
        raise InputError(
            f"{path}: image_ids do not match the hash that is stored with them, so the rows name other images; "
            "write it again with: msp-ds hard-negatives"
        )
    return hard_negatives


def write_hard_negatives(path: Path, hard_negatives: HardNegativeList) -> None:
    """Write a list and the hash of its images as .npz, atomically; equal lists give equal bytes."""
    arrays = {
        "image_ids": np.array(hard_negatives.image_ids),
        "neighbours": hard_negatives.neighbours,
        "sha256": np.array(hard_negatives.sha256),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, npz_bytes(arrays))
    sync_folder(path.parent)


def checked_list(image_ids: Sequence[str], neighbours: np.ndarray, *, where: Path) -> HardNegativeList:
    """Return the list of canonical `image_ids` with `neighbours`, integers [L, K].

    Raises: InputError for an image that is listed twice, and for rows outside of the list.
    """
    if len(neighbours) != len(image_ids):
        raise InputError(f"{where}: image_ids and neighbours do not match; it should be {LAYOUT}")
    if neighbours.size and not -1 <= neighbours.min() <= neighbours.max() < len(image_ids):
        raise InputError(f"{where}: neighbours name rows beyond the {len(image_ids)} images")
    if len(set(image_ids)) != len(image_ids):
        raise InputError(f"{where}: image_ids names an image twice")
    return HardNegativeList(image_ids=tuple(image_ids), neighbours=neighbours.astype(np.int32, copy=False))


def without_self(hard_negatives: HardNegativeList) -> HardNegativeList:
    """Return the list without images as their own hard negatives, and without columns that become empty."""
    neighbours = _close_gaps(hard_negatives.neighbours, np.arange(len(hard_negatives.image_ids), dtype=np.int32))
    used = int((neighbours >= 0).sum(axis=1).max(initial=0))
    return HardNegativeList(image_ids=hard_negatives.image_ids, neighbours=neighbours[:, :used])


def rows_within(hard_negatives: HardNegativeList, *, keys: list[str]) -> np.ndarray:
    """Return the list for the images `keys` of a set: int32 [N, K], rows of `keys`, nearest first, -1 beyond the last.

    The image itself and images outside of the set are dropped; an image that is not in the list gets only -1.
    """
    return np.concatenate(list(row_blocks_within(hard_negatives, keys=keys)))


def row_blocks_within(hard_negatives: HardNegativeList, *, keys: list[str]) -> Iterator[np.ndarray]:
    """Yield the result of `rows_within` in blocks of rows: sorting needs ten times the memory of a block."""
    row_of = {key: row for row, key in enumerate(keys)}
    # One more entry, IGNORE, for index -1.
    set_rows = np.array(
        [*(row_of.get(image_id, IGNORE) for image_id in hard_negatives.image_ids), IGNORE], dtype=np.int32
    )
    list_rows = np.full(len(keys), IGNORE)
    known = np.flatnonzero(set_rows >= 0)
    list_rows[set_rows[known]] = known
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        block = list_rows[start : start + _ROWS_AT_ONCE]
        neighbours = np.full((len(block), hard_negatives.neighbours.shape[1]), IGNORE, dtype=np.int32)
        neighbours[block >= 0] = set_rows[hard_negatives.neighbours[block[block >= 0]]]
        yield _close_gaps(neighbours, np.arange(start, start + len(block), dtype=np.int32))


def _close_gaps(neighbours: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return `neighbours` without the row's own number, int32 [L], and with the gaps at the end, int32 [L, K]."""
    others = np.where(neighbours == own[:, None], np.int32(IGNORE), neighbours)
    order = np.argsort(others == IGNORE, axis=1, kind="stable")
    return np.take_along_axis(others, order, axis=1)
