"""What the converters of region features have in common: they write parts in the npz layout that `msp-ds shard` reads.

A part holds 256 images. It appears under its name only when all of it is on the disk, and a part that is there is kept,
so that a converter that was stopped goes on where it was.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msp_ds.data.format.faults import Faults, OnError, RowAt, RowError
from msp_ds.data.format.image_ids import canonical_image_id
from msp_ds.errors import InputError
from msp_ds.progress import bars
from msp_ds.storage.array_files import load_arrays
from msp_ds.storage.file_kinds import refuse_other_kind
from msp_ds.storage.small_files import parse_json, read_small_bytes
from msp_ds.terminal import Terminal

IMAGES_A_PART = 256
ALLOWED = {"collections.OrderedDict": collections.OrderedDict}
"""What pickles of rows may name beside plain values: rows of Python 3.6's csv module are OrderedDicts."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image, R regions of F features."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    boxes: np.ndarray
    """[R, 4], x0 y0 x1 y1 in pixels."""
    features: np.ndarray
    """[R, F]."""
    object_ids: np.ndarray | None = None
    """[R], line number in the objects vocabulary; None without labels, as the next three."""
    object_scores: np.ndarray | None = None
    attribute_ids: np.ndarray | None = None
    attribute_scores: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """What a converter did."""

    out: Path
    num_images: int
    """Written now."""
    num_kept: int
    """In parts that were there before."""
    num_left_out: int

    def describe(self) -> str:
        """One line: `regions: 512 images written, 256 kept, 1 left out`."""
        return f"{self.out}: {self.num_images} images written, {self.num_kept} kept, {self.num_left_out} left out"


def write_parts(
    image_ids: Sequence[str], read: Callable[[int], Image], *, out: Path, on_error: OnError = "fail"
) -> PartReport:
    """Write all images as parts; `image_ids` are canonical, `read` gives the image at a place among them.

    Raises: InputError for a part of other images, an image named twice, and the first RowError of `read`, unless they
    are to be skipped; then each is told on stderr.
    """
    if len(set(image_ids)) < len(image_ids):
        raise InputError(f"{out}: {len(image_ids) - len(set(image_ids))} image ids of the source come twice")
    out.mkdir(parents=True, exist_ok=True)
    faults, written, kept = Faults(on_error), 0, 0
    with bars() as progress:
        progress.start("images", len(image_ids))
        for number, start in enumerate(range(0, len(image_ids), IMAGES_A_PART)):
            path, ids = out / f"part-{number:06d}.npz", list(image_ids[start : start + IMAGES_A_PART])
            if path.exists():
                kept += _check_kept(path, ids)
            else:
                images = _read_all(range(start, start + len(ids)), read, faults)
                _write(path, {image_ids[place]: image for place, image in images.items()})
                written += len(images)
            progress.advance(len(ids))
    for skipped in faults.skipped:
        Terminal(stderr=True, soft_wrap=True).print(f"left out: {skipped.image_id}: {skipped.reason}")
    return PartReport(out=out, num_images=written, num_kept=kept, num_left_out=len(image_ids) - written - kept)


def labels_of(class_scores: np.ndarray) -> dict[str, np.ndarray]:
    """object_ids and object_scores of Image from a detector's scores [R, 1 + C], of which the first is background."""
    foreground = np.asarray(class_scores, dtype=np.float32)[:, 1:]
    return {"object_ids": foreground.argmax(axis=1), "object_scores": foreground.max(axis=1)}


def read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Canonical id -> height, width, from a file in COCO's layout or Visual Genome's image_data.json.

    Raises: InputError for another layout.
    """
    what = "COCO's layout with images of id, height and width, or Visual Genome's image_data.json"
    refuse_other_kind(path, what=what)
    try:
        value = parse_json(read_small_bytes(path, most=4 << 30))
        entries = value["images"] if isinstance(value, dict) else value
        corpus, key = ("coco", "id") if isinstance(value, dict) else ("vg", "image_id")
        return {
            canonical_image_id(entry[key], corpus=corpus, where=str(path)): (int(entry["height"]), int(entry["width"]))  # type: ignore[arg-type]
            for entry in entries
        }
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it should be of {what}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not of {what} ({type(error).__name__}: {error})") from None


def needed(module: str) -> Any:
    """A module that only a converter needs. Raises: InputError with the command that installs it."""
    try:
        return __import__(module)
    except ImportError:
        program = Path(sys.argv[0]).name
        raise InputError(
            f"{program} needs the package {module}; install it with: pip install 'msp-ds[tools]'"
        ) from None


def _read_all(places: range, read: Callable[[int], Image], faults: Faults) -> dict[int, Image]:
    images = {}
    for place in places:
        try:
            images[place] = read(place)
        except RowError as error:
            faults.add(error)
    return images


def _check_kept(path: Path, image_ids: list[str]) -> int:
    """How many images a part of an earlier run holds. Raises: InputError when they are others than would be written."""
    there = load_arrays(path, ["image_id"], what="a part that this program wrote")["image_id"].tolist()
    if not set(there) <= set(image_ids):
        raise InputError(f"{path} holds other images than this source would give; remove it or name another --out")
    return len(there)


def _write(path: Path, images: dict[str, Image]) -> None:
    """Write a part down to the disk, then give it its name. Nothing, when no image is left for it."""
    if not images:
        return
    unfinished = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, **_stacked(images, path))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); what is finished stays") from None
    finally:
        unfinished.unlink(missing_ok=True)


_FIELDS = {
    "boxes": ("boxes", np.float32),
    "features": ("features", np.float16),
    "objects_id": ("object_ids", np.int16),
    "objects_conf": ("object_scores", np.float32),
    "attrs_id": ("attribute_ids", np.int16),
    "attrs_conf": ("attribute_scores", np.float32),
}
"""Key of the archive -> field of Image, type."""


def _stacked(images: dict[str, Image], path: Path) -> dict[str, np.ndarray]:
    """The arrays of a part, each image's regions padded with zeros to those of the one that has most."""
    counts = [len(image.boxes) for image in images.values()]
    arrays = {
        "image_id": np.array(list(images)),
        "height": np.array([image.height for image in images.values()], np.int32),
        "width": np.array([image.width for image in images.values()], np.int32),
        "num_boxes": np.array(counts, np.int32),
    }
    for key, (field, dtype) in _FIELDS.items():
        values = [getattr(image, field) for image in images.values()]
        if all(value is None for value in values):
            continue
        if len({None if value is None else value.shape[1:] for value in values}) > 1:
            raise InputError(f"{path}: its images have {key} of different widths, or only some of them have it")
        arrays[key] = np.zeros((len(values), max(counts), *values[0].shape[1:]), dtype)
        for place, value in enumerate(values):
            arrays[key][place, : len(value)] = value
    return arrays


def fault(path: Path, image_id: str, reason: str) -> RowError:
    """An image of a source that cannot be used."""
    return RowError(RowAt(path, image_id=image_id), reason)
