"""Remote shard sets, brought to this machine before training; then they are read like any local set.

The index comes first and says what else is needed; each file is taken from the cache if it is there, else fetched,
checked by size and sha256, and only then given its name. A set's folder in the cache holds links to its files.

Where the cache may not hold all that a run needs, the tars of its training sets stay where they are: their links lead
to where they will lie, and a note beside them says where they come from. blocks.py fetches them while the run trains.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msp_ds.config import write_json
from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.shards import parse_index
from msp_ds.data.remote.blob_cache import BlobCache
from msp_ds.data.remote.blocks import BlockSource
from msp_ds.data.remote.remote_files import RemoteFolder, is_remote
from msp_ds.errors import InputError, ShardError
from msp_ds.storage.checksums import FileEntry
from msp_ds.storage.durable import replace_folder
from msp_ds.storage.small_files import is_plain_name

DEFAULT_LIMIT_GB = 100.0


class ByteProgress(Protocol):
    """Who wants to hear of bytes."""

    def start(self, label: str, total: int | None) -> None:
        """Something of `total` bytes begins."""

    def advance(self, n: int = 1) -> None:
        """So many bytes are done, or, negative, must be done again."""


@dataclass(frozen=True, kw_only=True)
class RemoteSet:
    """One set as its index tells it."""

    name: str
    """`sentence/train`."""
    index_data: bytes
    tables: Mapping[str, FileEntry]
    """All files but the index and the tars."""
    tars: Mapping[str, FileEntry]

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """All files but the index."""
        return {**self.tars, **self.tables}

    def files_before_training(self, *, by_block: bool) -> Mapping[str, FileEntry]:
        """Those that must be here before the first step."""
        return self.tables if by_block and self.name.endswith("/train") else self.files


def refuse_rewriting(environment: Mapping[str, str]) -> None:
    """Raises: InputError when webdataset would replace addresses, by programs even, behind our back."""
    if environment.get("GOPEN_REWRITE"):
        raise InputError("GOPEN_REWRITE is set, which makes webdataset read other addresses; run: unset GOPEN_REWRITE")


@contextmanager
def local_shards(
    address: str, stages: Sequence[str], *, cache: Path, limit_gb: float, progress: ByteProgress
) -> Iterator[Path]:
    """The folder with one set a stage: `address` itself, or, where it is remote, its copy in the cache.

    What the copy needs is kept from eviction as long as the block runs.

    Raises: InputError for addresses that are not read and for sets that do not fit; ShardError for sets that are
    missing, differ from their index or cannot be had.
    """
    if not is_remote(address):
        yield Path(address)
        return
    blobs = BlobCache(cache.expanduser(), limit=int(limit_gb * 10**9))
    with ExitStack() as held:
        with blobs.locked():
            folder, lease = _stage(address, stages, blobs, progress)
            held.enter_context(lease)
        yield folder


def _stage(address: str, stages: Sequence[str], blobs: BlobCache, progress: ByteProgress) -> tuple[Path, ExitStack]:
    remote = RemoteFolder(address)
    sets = _read_indexes(remote, stages)
    by_block = blobs.can_hold and sum(_sizes(*(one.files for one in sets)).values()) > blobs.limit
    at_start = [one.files_before_training(by_block=by_block) for one in sets]
    needed = _sizes(*at_start)
    source = BlockSource(address=remote.address, cache=str(blobs.folder), limit=blobs.limit, kept=sum(needed.values()))
    kind = "tables and held-out sets" if by_block else "sets"
    blobs.make_room(needed, what=f"the {kind} of {', '.join(stages)} at {remote.address}")
    progress.start("fetch (bytes)", sum(needed.values()))
    for one, files in zip(sets, at_start, strict=True):
        for name, entry in files.items():
            target = blobs.path(entry.sha256)
            if entry.sha256 not in needed:
                continue  # came with another set of this run
            if target.exists():
                progress.advance(entry.bytes)
            else:
                part = blobs.part(entry.sha256)
                remote.fetch(f"{one.name}/{name}", entry, part=part, target=target, advance=progress.advance)
            needed.pop(entry.sha256)
    place = f"{remote.address} in {blobs.limit}" if by_block else remote.address
    folder = blobs.folder / "sets" / hashlib.sha256(place.encode()).hexdigest()[:16]
    for one, files in zip(sets, at_start, strict=True):
        _link(one, folder / one.name, blobs, source=source if len(files) < len(one.files) else None)
    for name in {f"{stage}/val" for stage in stages} - {one.name for one in sets}:
        shutil.rmtree(folder / name, ignore_errors=True)  # held out once, no longer
    return folder, blobs.hold(_sizes(*at_start))


def _sizes(*files: Mapping[str, FileEntry]) -> dict[str, int]:
    """sha256 -> bytes, what several sets have in common once."""
    return {entry.sha256: entry.bytes for some in files for entry in some.values()}


def _read_indexes(remote: RemoteFolder, stages: Sequence[str]) -> list[RemoteSet]:
    """The train set of each stage and the val sets that are there."""
    sets = []
    for stage in stages:
        for split in ("train", "val"):
            name = f"{stage}/{split}"
            where = f"{remote.address}/{name}/{layout.INDEX_NAME}"
            try:
                data = remote.read(f"{name}/{layout.INDEX_NAME}")
            except FileNotFoundError:
                if split == "train":
                    raise ShardError(f"{where} is missing; upload a set that was written with: msp-ds shard") from None
                continue
            index = parse_index(data, where=where, fix="upload the set again")
            tars = {shard.name: FileEntry(bytes=shard.bytes, sha256=shard.sha256) for shard in index.shards}
            check_names({**tars, **index.files}, where)
            sets.append(RemoteSet(name=name, index_data=data, tables=index.files, tars=tars))
    return sets


def check_names(files: Mapping[str, FileEntry], where: str) -> None:
    """Names and sums from a server become names on this disk. Raises: ShardError for those that may not."""
    for name, entry in files.items():
        plain = is_plain_name(name) and not name.startswith(".") and name != layout.INDEX_NAME
        if not plain or len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef") or entry.bytes < 0:
            raise ShardError(f"{where} lists {name!r}, whose name, size or sha256 is none; upload the set again")


def _link(one: RemoteSet, folder: Path, blobs: BlobCache, *, source: BlockSource | None) -> None:
    """A set's folder: the index and links to the files, in place at once. The cache is locked meanwhile.

    source: where the tars will come from, if they are not here.
    """
    prepared = folder.with_name(f".{folder.name}.staging")
    shutil.rmtree(prepared, ignore_errors=True)  # of a run that was killed
    prepared.mkdir(parents=True)
    for name, entry in one.files.items():
        (prepared / name).symlink_to(os.path.relpath(blobs.path(entry.sha256), prepared))
    (prepared / layout.INDEX_NAME).write_bytes(one.index_data)
    if source is not None:
        write_json(prepared / layout.BY_BLOCK_NAME, source)
    replace_folder(prepared, folder)
