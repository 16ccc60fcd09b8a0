"""What the converters of region features have in common: they write parts in the npz layout that `msp-ds shard` reads.

A part holds 256 images. It appears under its name only when all of it is on the disk, and a part that is there is kept,
so that a converter that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from msp_ds.data.format.faults import Faults, OnError, RowAt, RowError
from msp_ds.data.format.image_ids import Corpus, canonical_image_id
from msp_ds.data.format.region_checks import RawRegions
from msp_ds.errors import InputError
from msp_ds.progress import bars
from msp_ds.storage.array_files import load_arrays
from msp_ds.storage.file_kinds import refuse_other_kind
from msp_ds.storage.small_files import parse_json, read_small_bytes
from msp_ds.terminal import Terminal
from tools.command_line import tool_parser

K = TypeVar("K")
IMAGES_A_PART = 256
ALLOWED = {"collections.OrderedDict": collections.OrderedDict}
"""Classes that pickles of rows may name: rows of Python 3.6's csv module are OrderedDicts."""


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """The result of a converter."""

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
    images: Sequence[tuple[str, K]],
    read: Callable[[RowAt, K], RawRegions],
    *,
    source: Path,
    out: Path,
    on_error: OnError = "fail",
) -> PartReport:
    """Write all images of a source as parts. images: canonical image id and key; read: returns the image of a key.

    Raises: InputError for a part of other images, an image named twice, and the first RowError of `read`, unless they
    are to be skipped; then each is reported on stderr.
    """
    num_twice = len(images) - len({image_id for image_id, _ in images})
    if num_twice:
        raise InputError(f"{out}: {num_twice} image ids of the source come twice")
    out.mkdir(parents=True, exist_ok=True)
    faults, written, kept = Faults(on_error), 0, 0
    with bars() as progress:
        progress.start("images", len(images))
        for number, start in enumerate(range(0, len(images), IMAGES_A_PART)):
            path, part = out / f"part-{number:06d}.npz", images[start : start + IMAGES_A_PART]
            if path.exists():
                kept += _check_kept(path, {image_id for image_id, _ in part})
            else:
                found: list[RawRegions] = []
                for image_id, key in part:
                    try:
                        found.append(read(RowAt(source, image_id=image_id), key))
                    except RowError as error:
                        faults.add(error)
                _write(path, found)
                written += len(found)
            progress.advance(len(part))
    for skipped in faults.skipped:
        Terminal(stderr=True, soft_wrap=True).print(f"left out: {skipped.image_id}: {skipped.reason}")
    return PartReport(out=out, num_images=written, num_kept=kept, num_left_out=len(images) - written - kept)


def labels_of(class_scores: np.ndarray) -> dict[str, np.ndarray]:
    """object_ids and object_scores from a detector's scores [R, 1 + C], of which the first is background."""
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


@contextmanager
def lmdb_transaction(source: Path) -> Iterator[Any]:
    """Open an LMDB, a folder or a file, for reading. Raises: InputError when it is missing or of another kind."""
    lmdb = needed("lmdb")
    if not source.exists():
        raise InputError(f"{source} is missing; it should be an LMDB")
    refuse_other_kind(source / "data.mdb" if source.is_dir() else source, what="an LMDB")
    try:
        environment = lmdb.open(str(source), readonly=True, lock=False, readahead=False, subdir=source.is_dir())
    except lmdb.Error as error:
        raise InputError(f"{source} is no readable LMDB ({error})") from None
    with environment, environment.begin() as transaction:
        yield transaction


def converter_parser(description: str | None, *, source: str, has_corpus: bool) -> argparse.ArgumentParser:
    """Return a parser with the flags of all converters. source: help of the positional argument."""
    parser = tool_parser(description)
    parser.add_argument("source", type=Path, help=source)
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts; those that are there stay")
    parser.add_argument("--on-error", choices=get_args(OnError), default="fail", help="what a damaged image does")
    if has_corpus:
        parser.add_argument("--corpus", choices=get_args(Corpus), default="coco", help="corpus of plain numbers")
    return parser


def run_converter(convert: Callable[..., PartReport], parser: argparse.ArgumentParser) -> None:
    """Call `convert` with the flags of the command line and print its report."""
    flags = vars(parser.parse_args())
    Terminal(soft_wrap=True).print(convert(flags.pop("source"), **flags).describe())


def needed(module: str) -> Any:
    """A module that only a converter needs. Raises: InputError with the command that installs it."""
    try:
        return __import__(module)
    except ImportError:
        program = Path(sys.argv[0]).name
        raise InputError(
            f"{program} needs the package {module}; install it with: pip install 'msp-ds[tools]'"
        ) from None


def _check_kept(path: Path, image_ids: set[str]) -> int:
    """The number of images in a part of an earlier run. Raises: InputError for images that do not belong in it."""
    there = load_arrays(path, ["image_id"], what="a part that this program wrote")["image_id"].tolist()
    if not set(there) <= image_ids:
        raise InputError(f"{path} holds other images than this source would give; remove it or name another --out")
    return len(there)


def _write(path: Path, images: list[RawRegions]) -> None:
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
"""Key of the archive -> field of RawRegions, type."""


def _stacked(images: list[RawRegions], path: Path) -> dict[str, np.ndarray]:
    """The arrays of a part, each image's regions padded with zeros to those of the one that has most."""
    counts = [len(image.boxes) for image in images]
    arrays = {
        "image_id": np.array([image.place.image_id for image in images]),
        "height": np.array([image.height for image in images], np.int32),
        "width": np.array([image.width for image in images], np.int32),
        "num_boxes": np.array(counts, np.int32),
    }
    for key, (field, dtype) in _FIELDS.items():
        values = [getattr(image, field) for image in images]
        if all(value is None for value in values):
            continue
        if len({None if value is None else value.shape[1:] for value in values}) > 1:
            raise InputError(f"{path}: its images have {key} of different widths, or only some of them have it")
        arrays[key] = np.zeros((len(values), max(counts), *values[0].shape[1:]), dtype)
        for place, value in enumerate(values):
            arrays[key][place, : len(value)] = value
    return arrays
