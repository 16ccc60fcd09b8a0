"""Remote shard sets, copied to this machine before training and then read like any local set.

The index comes first and lists the other files; a file that is not in the cache is fetched, checked by size and sha256,
and only then given its name. A set's folder in the cache holds links to its files.

Where the cache is too small for a run, the tars of its training sets are fetched later, by blocks.py while the run
trains: until then their links lead nowhere, and a note beside them names their address.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from msp_ds.config import write_json
from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.shards import parse_index
from msp_ds.data.loading.block_plan import GIGABYTE
from msp_ds.data.progress import Progress
from msp_ds.data.remote.blob_cache import BlobCache
from msp_ds.data.remote.blocks import BlockSource
from msp_ds.data.remote.remote_files import RemoteFolder, is_remote
from msp_ds.errors import InputError, ShardError
from msp_ds.storage.atomic_files import replacing_folder
from msp_ds.storage.checksums import FileEntry
from msp_ds.storage.locks import HAS_FILE_LOCKS
from msp_ds.storage.small_files import is_plain_name

DEFAULT_LIMIT_GB = 100.0


@dataclass(frozen=True, kw_only=True)
class RemoteSet:
    """One set at an address, as its index lists it."""

    name: str  # `sentence/train`
    index_data: bytes
    tables: Mapping[str, FileEntry]  # all files but the index and the tars
    tars: Mapping[str, FileEntry]

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """All files but the index."""
        return {**self.tars, **self.tables}


def refuse_rewriting(environment: Mapping[str, str]) -> None:
    """Raise InputError when the environment makes webdataset replace addresses, maybe by programs."""
    if environment.get("GOPEN_REWRITE"):
        raise InputError("GOPEN_REWRITE is set, which makes webdataset read other addresses; run: unset GOPEN_REWRITE")


@contextmanager
def local_shards(
    address: str, stages: Sequence[str], *, cache: Path, limit_gb: float, progress: Progress
) -> Iterator[Path]:
    """Yield the folder with one set per stage: `address` itself, or its copy in the cache where it is remote.

    The files of the copy are kept from eviction as long as the block runs.

    Raises: InputError for addresses that are not supported and for sets that do not fit; ShardError for sets that are
    missing, differ from their index or cannot be fetched.
    """
    if not is_remote(address):
        yield Path(address)
        return
    blobs = BlobCache(cache.expanduser(), limit=int(limit_gb * GIGABYTE))
    with ExitStack() as held:
        with blobs.locked():
            folder, lease = _stage(address, stages, blobs, progress)
            held.enter_context(lease)
        yield folder


def _stage(address: str, stages: Sequence[str], blobs: BlobCache, progress: Progress) -> tuple[Path, ExitStack]:
    remote = RemoteFolder(address)
    sets = _read_indexes(remote, stages)
    by_block = HAS_FILE_LOCKS and sum(_sizes(*(one.files for one in sets)).values()) > blobs.limit
    at_start = [one.tables if by_block and one.name.endswith("/train") else one.files for one in sets]
    needed = _sizes(*at_start)
    source = BlockSource(address=remote.address, cache=str(blobs.folder), limit=blobs.limit, kept=sum(needed.values()))
    kind = "tables and held-out sets" if by_block else "sets"
    blobs.make_room(needed, what=f"the {kind} of {', '.join(stages)} at {remote.address}")
    progress.start("fetch (bytes)", sum(needed.values()))
    for one, files in zip(sets, at_start, strict=True):
        for name, entry in files.items():
            if entry.sha256 not in needed:
                continue  # fetched with another set of this run
            if blobs.path(entry.sha256).exists():
                progress.advance(entry.bytes)
            else:
                remote.fetch(f"{one.name}/{name}", entry, blobs, advance=progress.advance)
            needed.pop(entry.sha256)
    place = f"{remote.address} in {blobs.limit}" if by_block else remote.address
    folder = blobs.folder / "sets" / hashlib.sha256(place.encode()).hexdigest()[:16]
    for one, files in zip(sets, at_start, strict=True):
        _link(one, folder / one.name, blobs, source=source if len(files) < len(one.files) else None)
    for name in {f"{stage}/val" for stage in stages} - {one.name for one in sets}:
        shutil.rmtree(folder / name, ignore_errors=True)  # the address has no held-out set any more
    return folder, blobs.hold(_sizes(*at_start))


def _sizes(*files: Mapping[str, FileEntry]) -> dict[str, int]:
    """sha256 -> bytes; a file of several sets counts once."""
    return {entry.sha256: entry.bytes for some in files for entry in some.values()}


def _read_indexes(remote: RemoteFolder, stages: Sequence[str]) -> list[RemoteSet]:
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
    """Raise ShardError for names and sums from a server that must not become names on this disk."""
    for name, entry in files.items():
        plain = is_plain_name(name) and not name.startswith(".") and name != layout.INDEX_NAME
        if not plain or len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef") or entry.bytes < 0:
            raise ShardError(f"{where} lists {name!r}, whose name, size or sha256 is not valid; upload the set again")


def _link(one: RemoteSet, folder: Path, blobs: BlobCache, *, source: BlockSource | None) -> None:
    """Write a set's folder, the index and links to the files, in one step; the caller has locked the cache.

    source: where the tars will come from, if they are not here.
    """
    prepared = folder.with_name(f".{folder.name}.staging")
    shutil.rmtree(prepared, ignore_errors=True)  # of a run that was killed
    prepared.mkdir(parents=True)
    with replacing_folder(folder, prepared):
        for name, entry in one.files.items():
            (prepared / name).symlink_to(os.path.relpath(blobs.path(entry.sha256), prepared))
        (prepared / layout.INDEX_NAME).write_bytes(one.index_data)
        if source is not None:
            write_json(prepared / layout.BY_BLOCK_NAME, source)
