"""Compute or import hard negatives and store them in a file or in a finished set, as `msp-ds hard-negatives` does."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.image_ids import Corpus
from msp_ds.data.format.set_tables import npz_bytes
from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.progress import Progress
from msp_ds.errors import InputError
from msp_ds.preparation.hard_negatives.hard_negative_list import (
    HardNegativeList,
    read_hard_negatives,
    rows_within,
    write_hard_negatives,
)
from msp_ds.preparation.hard_negatives.neighbour_search import (
    RawImages,
    Search,
    SetImages,
    find_hard_negatives,
    remove_work,
)
from msp_ds.preparation.hard_negatives.vilbert_pickle import read_hard_negative_pickle
from msp_ds.storage.atomic_files import replacing_folder, require_own_files, require_plain_file, write_durably
from msp_ds.storage.locks import lock_folder


@dataclass(frozen=True, kw_only=True)
class HardNegativesPlan:
    """Source and target of a list of hard negatives."""

    shards: Path | None = None
    """A shard set to compute from, unless another source is named; with `attach` also the target of the list."""
    regions: tuple[str, ...] = ()
    """Files of region features to compute from."""
    imported: Path | None = None
    """A finished list: ViLBERT's hard_negative.pkl, or an .npz like `out`."""
    corpus: Corpus = "coco"
    """The corpus of plain numbers in a pickle."""
    count: int = 100
    """Hard negatives an image, where they are computed."""
    out: Path | None = None
    """The .npz to write."""
    attach: bool = False
    """Store the list in the set `shards`."""

    def __post_init__(self) -> None:
        if self.regions and self.imported:
            raise InputError("--regions and --import name two sources; give one")
        if not (self.shards or self.regions or self.imported):
            raise InputError("name a source: --shards SET, --regions FILE or --import hard_negative.pkl")
        if not self.out and not self.attach:
            raise InputError("name the target of the list: --out FILE.npz, or --shards SET --attach")
        if self.attach and not self.shards:
            raise InputError("--attach needs the set that gets the list: --shards SET")
        if self.shards and not self.attach and (self.regions or self.imported):
            raise InputError("--shards beside another source is for --attach only; add that or leave --shards out")
        if self.out and self.out.suffix != ".npz":
            raise InputError(f"{self.out} should end in .npz")
        require_plain_file(self.out)
        if self.count < 1:
            raise InputError(f"{self.count} hard negatives an image are too few; ask for at least 1")


def make_hard_negatives(plan: HardNegativesPlan, *, progress: Progress) -> str:
    """Compute or import a list, store it as planned, and return a one-line summary.

    Intermediate results stay beside the target until the list is stored.

    Raises: InputError for every fault of the sources and the target.
    """
    shards = open_set(plan.shards) if plan.shards else None
    hard_negatives = _read_or_compute(plan, shards, progress)
    num_images, width = hard_negatives.neighbours.shape
    summary = f"{num_images} images with up to {width} hard negatives"
    if plan.out:
        try:
            write_hard_negatives(plan.out, hard_negatives)
        except OSError as error:
            raise InputError(f"{plan.out} cannot be written ({error.strerror}); name another --out") from None
        summary += f" in {plan.out}"
    if plan.attach and shards is not None:
        num_with = attach_hard_negatives(shards, hard_negatives)
        summary += f"; {num_with} of the {len(shards.keys)} images of {shards.path} have some now"
    remove_work(_work_folder(plan))
    return summary


def _read_or_compute(plan: HardNegativesPlan, shards: ShardSet | None, progress: Progress) -> HardNegativeList:
    if plan.imported:
        if plan.imported.suffix == ".npz":
            return read_hard_negatives(plan.imported)
        return read_hard_negative_pickle(plan.imported, corpus=plan.corpus)
    search = Search(count=plan.count, work=_work_folder(plan), progress=progress)
    if plan.regions or shards is None:
        return find_hard_negatives(RawImages(plan.regions), search)
    return find_hard_negatives(SetImages(shards), search)


def _work_folder(plan: HardNegativesPlan) -> Path:
    """Return the folder of intermediate results, beside the target so that the same command finds it again."""
    target = plan.out or (plan.shards or Path()).resolve()
    return target.with_name(f".{target.name}.hard-negatives")


def attach_hard_negatives(shards: ShardSet, hard_negatives: HardNegativeList) -> int:
    """Store a list in a finished set, replacing any old list; return the number of images with hard negatives.

    The tars are not touched. Readers see the old set or the new one, never a mixture.

    Raises: InputError when no image of the set is in the list, or the set cannot be written.
    """
    rows = rows_within(hard_negatives, keys=list(shards.keys))
    num_with = int((rows >= 0).any(axis=1).sum())
    if not num_with:
        raise InputError(
            f"the list has none of the {len(rows)} images of {shards.path} (the first is {shards.keys[0]}, the "
            f"list's {' '.join(hard_negatives.image_ids[:1])}); for plain numbers of another corpus give --corpus"
        )
    try:
        _replace_table(shards, npz_bytes({"rows": rows}))
    except OSError as error:
        raise InputError(f"{shards.path} cannot be written ({error.strerror}); it is unchanged") from None
    return num_with


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
            write_durably(prepared / layout.INDEX_NAME, index.to_bytes())


def _link(source: str, target: str) -> None:
    """Make a hard link, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
