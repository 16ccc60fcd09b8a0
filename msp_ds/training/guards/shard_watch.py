"""Shards that change while a run reads them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from msp_ds.data.format.set_layout import INDEX_NAME
from msp_ds.data.format.shards import ShardSet
from msp_ds.storage.checksums import sha256_of_file

log = logging.getLogger(__name__)


class ShardWatch:
    """Compares the files of a stage's sets with their state at its start."""

    def __init__(self, sets: Sequence[ShardSet]) -> None:
        self._index_of = {one.path / INDEX_NAME: one.index_sha256 for one in sets}
        # Tars that are fetched in blocks come and go; each image in them is checked when it is read.
        tars = [tar for one in sets if not one.comes_by_block for tar in one.shard_paths]
        self._before = {path: _look(path) for path in (*self._index_of, *tars)}

    def fault(self) -> str:
        """A message about a file that has changed; empty where there is none.

        A file with a new time only is warned about once: each image is compared with the index when it is read.
        """
        for path, before in self._before.items():
            now = _look(path)
            if now == before:
                continue
            known = self._index_of.get(path)
            is_other = now is None or before is None or now[0] != before[0]
            if is_other or (known is not None and sha256_of_file(path) != known):
                what = "is gone" if now is None else "has changed"
                return f"{path} {what} since this run began to read it; bring back the shards that it was started with"
            log.warning("%s was written again while this run reads it; each image is checked on the way", path)
            self._before[path] = now
        return ""


def _look(path: Path) -> tuple[int, int, int] | None:
    """(size in bytes, time of change in ns, inode) of a file; None where it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
