"""What `msp-ds negatives` does: hard negatives computed or imported, written to a file or into a finished set."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from msp_ds.config import to_json
from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.image_ids import Corpus
from msp_ds.data.format.set_tables import npz_bytes
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.progress import Progress
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.lists import (
    HardNegativeList,
    read_hard_negatives,
    rows_within,
    write_hard_negatives,
)
from msp_ds.preparation.hard_negatives.search import RawImages, Search, SetImages, find_hard_negatives, remove_work
from msp_ds.preparation.hard_negatives.vilbert_pickle import read_hard_negative_pickle
from msp_ds.storage.atomic_files import replacing_folder, require_own_files, require_plain_file, write_durably
from msp_ds.storage.locks import lock_folder


@dataclass(frozen=True, kw_only=True)
class NegativesPlan:
    """Where a list of hard negatives comes from and where it goes."""

    shards: Path | None = None
    """A shard set to compute from, unless another source is named; with `attach` also where the list goes."""
    regions: tuple[str, ...] = ()
    """Files of region features to compute from."""
    imported: Path | None = None
    """A finished list: ViLBERT's hard_negative.pkl, or an .npz as `out`."""
    corpus: Corpus = "coco"
    """Whose images the plain numbers of a pickle mean."""
    count: int = 100
    """Hard negatives of an image, where they are computed."""
    out: Path | None = None
    """The .npz to write."""
    attach: bool = False
    """Put the list into the set `shards`."""

    def __post_init__(self) -> None:
        if self.regions and self.imported:
            raise InputError("--regions and --import name two sources; give one")
        if not (self.shards or self.regions or self.imported):
            raise InputError("name a source: --shards SET, --regions FILE or --import hard_negative.pkl")
        if not self.out and not self.attach:
            raise InputError("name where the list goes: --out FILE.npz, or --shards SET --attach")
        if self.attach and not self.shards:
            raise InputError("--attach needs the set that gets the list: --shards SET")
        if self.shards and not self.attach and (self.regions or self.imported):
            raise InputError("--shards beside another source is for --attach only; add that or leave --shards out")
        if self.out and self.out.suffix != ".npz":
            raise InputError(f"{self.out} should end in .npz")
        require_plain_file(self.out)
        if self.count < 1:
            raise InputError(f"{self.count} hard negatives of an image are none; ask for at least 1")


def make_negatives(plan: NegativesPlan, *, progress: Progress) -> str:
    """Compute or import a list and store it as planned; what was done, in a line.

    Raises: InputError for every fault of the sources and the target. What was computed is kept beside the target
    until all of it is stored.
    """
    shards = open_set(plan.shards) if plan.shards else None
    hard_negatives = _obtain(plan, shards, progress)
    num_images, width = hard_negatives.neighbours.shape
    told = f"{num_images} images with up to {width} hard negatives"
    if plan.out:
        try:
            write_hard_negatives(plan.out, hard_negatives)
        except OSError as error:
            raise InputError(f"{plan.out} cannot be written ({error.strerror}); name another --out") from None
        told += f" in {plan.out}"
    if plan.attach and shards is not None:
        served = attach_hard_negatives(shards, hard_negatives)
        told += f"; {served} of the {len(shards.keys)} images of {shards.path} have some now"
    remove_work(_work_folder(plan))
    return told


def _obtain(plan: NegativesPlan, shards: ShardSet | None, progress: Progress) -> HardNegativeList:
    if plan.imported:
        if plan.imported.suffix == ".npz":
            return read_hard_negatives(plan.imported)
        return read_hard_negative_pickle(plan.imported, corpus=plan.corpus)
    search = Search(count=plan.count, work=_work_folder(plan), progress=progress)
    if plan.regions or shards is None:
        return find_hard_negatives(RawImages(plan.regions), search)
    return find_hard_negatives(SetImages(shards), search)


def _work_folder(plan: NegativesPlan) -> Path:
    """Beside the target, so that the same command finds it again."""
    target = plan.out or (plan.shards or Path()).resolve()
    return target.with_name(f".{target.name}.hard negatives")


def attach_hard_negatives(shards: ShardSet, hard_negatives: HardNegativeList) -> int:
    """Put a list into a finished set in the place of the one it has, if any; the number of images that have some now.

    The tars stay as they are. Readers see the old set or the new one, never a mixture.

    Raises: InputError when the list knows no image of the set, or the set cannot be written.
    """
    rows = rows_within(hard_negatives, keys=list(shards.keys))
    served = int((rows >= 0).any(axis=1).sum())
    if not served:
        raise InputError(
            f"the list knows none of the {len(rows)} images of {shards.path} (the first is {shards.keys[0]}, the "
            f"list's {' '.join(hard_negatives.image_ids[:1])}); for plain numbers of another corpus give --corpus"
        )
    try:
        _replace_table(shards, npz_bytes({"rows": rows}))
    except OSError as error:
        raise InputError(f"{shards.path} cannot be written ({error.strerror}); it is as it was") from None
    return served


def _replace_table(shards: ShardSet, data: bytes | memoryview) -> None:
    target = shards.path.resolve()
    prepared = target.with_name(f".{target.name}.attaching")
    with lock_folder(target.parent):
        require_own_files(
            prepared,
            is_own=lambda name: name == layout.HARD_NEGATIVES_NAME or (target / name).exists(),
            what="a set that gets hard negatives",
            fix="move it",
        )
        shutil.rmtree(prepared, ignore_errors=True)  # of a run that was killed
        replaced = shutil.ignore_patterns(layout.INDEX_NAME, layout.HARD_NEGATIVES_NAME)
        with replacing_folder(target, prepared):
            shutil.copytree(target, prepared, copy_function=_link, ignore=replaced)
            entry = write_durably(prepared / layout.HARD_NEGATIVES_NAME, data)
            index = replace(shards.index, files={**shards.index.files, layout.HARD_NEGATIVES_NAME: entry})
            write_durably(prepared / layout.INDEX_NAME, (json.dumps(to_json(index)) + "\n").encode())


def _link(source: str, target: str) -> None:
    """Another name for the same bytes where the file system has such, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
