"""Local copies of remote shard sets, for commands that read whole sets without training on them."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.shards import parse_index
from msp_ds.data.progress import Progress
from msp_ds.data.remote.blob_cache import BlobCache
from msp_ds.data.remote.remote_files import RemoteFolder, is_remote
from msp_ds.data.remote.staging import check_names
from msp_ds.errors import ShardError
from msp_ds.storage.atomic_files import replacing_folder
from msp_ds.storage.checksums import FileEntry

_SETS = tuple(f"{stage}/{split}" for stage in layout.STAGE_NAMES for split in ("train", "val"))
_FAULTS_NAMED = 5
"""Faulty files after which the rest is not tried: a server may be down."""


@contextmanager
def local_copies(
    paths: Sequence[str], *, cache: Path, limit_gb: float, progress: Progress, one_set: bool = False
) -> Iterator[list[Path]]:
    """Yield a local folder for each path: the path itself or, for an address, whole copies of the sets there.

    An address names a set or, unless `one_set`, a folder that holds `<stage>/<split>`. Each file is fetched once and
    checked by size and sha256; copies are protected from eviction during the block.

    Raises: InputError for unsupported addresses and for sets that exceed the cache; ShardError naming the files that
    are missing, differ from their index or cannot be fetched.
    """
    with ExitStack() as held:
        folders: list[Path] = []
        for path in paths:
            if is_remote(path):
                blobs = BlobCache(cache.expanduser(), limit=int(limit_gb * 10**9))
                sets = _sets_at(RemoteFolder(path), () if one_set else _SETS)
                folders += _copies(path, sets, blobs, progress=progress, held=held)
            else:
                folders.append(Path(path))
        yield folders


@dataclass(frozen=True, kw_only=True)
class _RemoteSet:
    """A set at an address, by its index."""

    name: str
    """`sentence/train` below the address; empty for the address itself."""
    remote: RemoteFolder
    index_data: bytes
    files: Mapping[str, FileEntry]
    """All files but the index."""


def _sets_at(remote: RemoteFolder, names: Sequence[str]) -> list[_RemoteSet]:
    """Return the set at an address, or else those of `names` that are below it."""
    alone = _set_at("", remote)
    found = [alone] if alone else [_set_at(name, RemoteFolder(f"{remote.address}/{name}")) for name in names]
    sets = [one for one in found if one]
    if not sets:
        nor = f", nor is there any of {', '.join(names)}" if names else ""
        raise ShardError(f"{remote.address}/{layout.INDEX_NAME} is missing{nor}; give the address of a shard set")
    return sets


def _set_at(name: str, remote: RemoteFolder) -> _RemoteSet | None:
    where = f"{remote.address}/{layout.INDEX_NAME}"
    try:
        data = remote.read(layout.INDEX_NAME)
    except FileNotFoundError:
        return None
    index = parse_index(data, where=where, fix="upload the set again")
    tars = {shard.name: FileEntry(bytes=shard.bytes, sha256=shard.sha256) for shard in index.shards}
    check_names({**tars, **index.files}, where)
    return _RemoteSet(name=name, remote=remote, index_data=data, files={**tars, **index.files})


def _copies(
    address: str, sets: Sequence[_RemoteSet], blobs: BlobCache, *, progress: Progress, held: ExitStack
) -> list[Path]:
    root = blobs.folder / "copies" / _folder_name(address)
    needed = {entry.sha256: entry.bytes for one in sets for entry in one.files.values()}
    with blobs.locked():
        blobs.make_room(needed, what=f"the sets at {address}")
        _fetch(sets, blobs, progress=progress)
        held.enter_context(blobs.hold(needed))
        return [_assemble(one, root / one.name, blobs) for one in sets]


def _fetch(sets: Sequence[_RemoteSet], blobs: BlobCache, *, progress: Progress) -> None:
    """Fetch files that are not in the cache. Raises: ShardError naming files that are missing or damaged."""
    wanted = {entry.sha256: (one, name, entry) for one in sets for name, entry in one.files.items()}
    missing = [found for sha256, found in wanted.items() if not blobs.path(sha256).exists()]
    progress.start("fetch (bytes)", sum(entry.bytes for _, _, entry in missing))
    faults: list[str] = []
    for one, name, entry in missing:
        try:
            one.remote.fetch(name, entry, blobs, advance=progress.advance)
        except ShardError as error:
            faults.append(str(error))
        if len(faults) == _FAULTS_NAMED:
            break
    if faults:
        raise ShardError("; and ".join(faults))


def _assemble(one: _RemoteSet, folder: Path, blobs: BlobCache) -> Path:
    """Create a set's folder of links to its files atomically; the cache must be locked."""
    prepared = folder.with_name(f".{folder.name}.copying")
    shutil.rmtree(prepared, ignore_errors=True)  # of a run that was killed
    prepared.mkdir(parents=True)
    with replacing_folder(folder, prepared):
        (prepared / layout.INDEX_NAME).write_bytes(one.index_data)
        for name, entry in one.files.items():
            os.symlink(os.path.relpath(blobs.path(entry.sha256), prepared), prepared / name)
    return folder


def _folder_name(address: str) -> str:
    """Return a readable folder name that is unique to an address."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", address)[:80]
    return f"{plain}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
