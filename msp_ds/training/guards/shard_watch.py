"""Shards that change while a run reads them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msp_ds.data.format.set_layout import INDEX_NAME
from msp_ds.data.format.shards import ShardSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileStat:
    """How a file looks from outside."""

    size: int
    """Bytes."""
    modified: int
    """Nanoseconds."""
    number: int
    """Of its inode: another file may have been put in its place."""


class ShardWatch:
    """The files of a stage's sets as they were when it began."""

    def __init__(self, sets: Sequence[ShardSet]) -> None:
        self._index_of = {one.path / INDEX_NAME: one.index_sha256 for one in sets}
        # Tars that come by block come and go; what is read of them is checked all the same.
        tars = [tar for one in sets if not one.comes_by_block for tar in one.shard_paths]
        self._before = {path: _look(path) for path in (*self._index_of, *tars)}

    def fault(self) -> str:
        """What a run cannot go on with; empty where there is nothing. A file that only looks newer is a warning, once.

        A tar's bytes are compared with the index whenever an image is read, so its time alone decides nothing.
        """
        for path, before in self._before.items():
            now = _look(path)
            if now == before:
                continue
            if now is None or before is None or now.size != before.size or self._has_another_index(path):
                what = "is gone" if now is None else "has changed"
                return f"{path} {what} since this run began to read it; bring back the shards that it was started with"
            log.warning("%s was written again while this run reads it; each image is checked on the way", path)
            self._before[path] = now
        return ""

    def _has_another_index(self, path: Path) -> bool:
        known = self._index_of.get(path)
        return known is not None and hashlib.sha256(path.read_bytes()).hexdigest() != known


def _look(path: Path) -> FileStat | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return FileStat(found.st_size, found.st_mtime_ns, found.st_ino)
