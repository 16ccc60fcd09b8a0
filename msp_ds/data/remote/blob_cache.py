"""A cache of files that are named by their sha256, so that two files of one name but other content never meet.

A file gets its name only after its sum was checked. The least recently used files are evicted; files in use by any
process hold a shared lock, which ends with the process, also after kill -9.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msp_ds.data.loading.block_plan import GIGABYTE
from msp_ds.errors import InputError, writing
from msp_ds.storage.locks import lock_file

PART_ENDING = ".part"
_BLOB = re.compile(rf"([0-9a-f]{{64}})({re.escape(PART_ENDING)})?")
"""Names of files that may be evicted; other files in the folder belong to somebody else."""


class BlobCache:
    """A folder of files named by their sha256, at most `limit` bytes in all."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._blobs = folder / "blobs"
        with writing(folder, fix="choose another --cache"):
            self._blobs.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Return the path of the file with this sum, which may not be there yet."""
        return self._blobs / sha256

    def part(self, sha256: str) -> Path:
        """Return the path of the file while it is being fetched."""
        return self._blobs / f"{sha256}{PART_ENDING}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing this cache; wait until none does."""
        with (self.folder / "lock").open("a") as file:
            lock_file(file, wait=True)
            yield

    def hold(self, sums: Iterable[str]) -> ExitStack:
        """Keep files from eviction until the result is closed or the process ends; they count as used now."""
        held = ExitStack()
        for sha256 in sums:
            lock_file(held.enter_context(self.path(sha256).open("rb")), shared=True, wait=True)
            os.utime(self.path(sha256))
        return held

    def make_room(self, needed: Mapping[str, int], *, what: str) -> None:
        """Evict files, the least recently used first, until `needed` (sha256 -> bytes) fits beside the rest.

        Raises: InputError when it cannot fit into the limit or on the disk.
        """
        total = sum(needed.values())
        if total > self.limit:
            raise InputError(
                f"{what} take {total / GIGABYTE:.1f} GB, which must all fit into the cache {self.folder}, but it may "
                f"hold {self.limit / GIGABYTE:.1f} GB; give --cache-limit {total / GIGABYTE + 0.05:.1f}, "
                "or ask for fewer sets at a time"
            )
        self.evict_beside(needed)
        missing = sum(max(0, size - self._size(name)) for name, size in needed.items())
        free = shutil.disk_usage(self._blobs).free
        if missing > free:
            raise InputError(
                f"{what} need {missing / GIGABYTE:.1f} GB more in {self.folder}, but its disk has "
                f"{free / GIGABYTE:.1f} GB left; make room, or choose another --cache"
            )

    def evict_beside(self, needed: Mapping[str, int]) -> int:
        """Evict files that are not in `needed` (sha256 -> bytes), the least recently used first, until those fit.

        Returns the bytes that are still too many, since the files that are left are in use.
        """
        others = sorted(
            (path for path in self._blobs.iterdir() if (name := _BLOB.fullmatch(path.name)) and name[1] not in needed),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: path.stat().st_size for path in others}
        over = sum(needed.values()) + sum(sizes.values()) - self.limit
        for path in others:
            if over > 0 and _evict(path):
                over -= sizes[path]
        return max(0, over)

    def _size(self, sha256: str) -> int:
        for path in (self.path(sha256), self.part(sha256)):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        return 0


def _evict(path: Path) -> bool:
    """Delete a file unless a process holds it; return whether it was deleted."""
    with path.open("rb") as file:
        if lock_file(file) is False:
            return False
        path.unlink()
    return True
