"""Files by what they hold: each is named by its sha256, so that two of one name but other content never meet.

A file appears under its name only when its sum was found right. The files used last stay; those in use by any process
hold a shared lock, which ends with the process, however it ends.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from msp_ds.errors import InputError

try:
    import fcntl
except ImportError:  # a system without these locks, as Windows: use a cache of its own for each run there
    fcntl = None  # type: ignore[assignment]

PART_ENDING = ".part"
_BLOB = re.compile(rf"([0-9a-f]{{64}})({re.escape(PART_ENDING)})?")
"""Names of files that may be evicted; others in the folder are somebody's own."""
GIGABYTE = 10**9


class BlobCache:
    """A folder of files named by their sha256, at most `limit` bytes in all."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._blobs = folder / "blobs"
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); choose another --cache") from None

    @property
    def can_hold(self) -> bool:
        """Whether this system has the locks that keep files in use from being evicted."""
        return fcntl is not None

    def path(self, sha256: str) -> Path:
        """Where the file of that sum lies, or will lie."""
        return self._blobs / sha256

    def part(self, sha256: str) -> Path:
        """Where it grows until it is whole."""
        return self._blobs / f"{sha256}{PART_ENDING}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes that change this cache; others wait."""
        with (self.folder / "lock").open("a") as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def hold(self, sums: Iterable[str]) -> ExitStack:
        """Keep files from being evicted until the result is closed or the process ends; they count as used now."""
        held = ExitStack()
        for sha256 in sums:
            file = held.enter_context(self.path(sha256).open("rb"))
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_SH)
            os.utime(self.path(sha256))
        return held

    def make_room(self, needed: Mapping[str, int], *, what: str) -> None:
        """Evict whole files, the longest unused first, until `needed` (sha256 -> bytes) fits beside the rest.

        Raises InputError when it cannot fit: more than the limit, or than the disk has left.
        """
        total = sum(needed.values())
        if total > self.limit:
            raise InputError(
                f"{what} take {total / GIGABYTE:.1f} GB, which must all fit into the cache {self.folder}, but it may "
                f"hold {self.limit / GIGABYTE:.1f} GB; give --cache-limit {total / GIGABYTE + 0.05:.1f}, "
                "or ask for fewer sets at a time"
            )
        self.evict_beside(needed)
        here = {name: self._size(name) for name in needed}
        missing = sum(size - min(size, here[name]) for name, size in needed.items())
        free = shutil.disk_usage(self._blobs).free
        if missing > free:
            raise InputError(
                f"{what} need {missing / GIGABYTE:.1f} GB more in {self.folder}, but its disk has "
                f"{free / GIGABYTE:.1f} GB left; make room, or choose another --cache"
            )

    def evict_beside(self, needed: Mapping[str, int]) -> int:
        """Evict other files than those of `needed` (sha256 -> bytes), the longest unused first, until these fit.

        Returns the bytes by which they still do not, since what is left is in use.
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
    """Delete a file unless somebody holds it."""
    with path.open("rb") as file:
        if not _lock_alone(file):
            return False
        path.unlink()
    return True


def _lock_alone(file: IO[bytes]) -> bool:
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
