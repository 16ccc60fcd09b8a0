"""A set on a server, and a cache that holds a good third of its tars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from file_server import Server, serving

from msp_ds.data.remote.staging import local_shards

ROOM = 204_800
"""Bytes for tars beside what stays: two blocks of two tars, of 542,720 bytes in all."""


class Quiet:
    def start(self, label: str, total: int | None) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass


def kept_bytes(shards: Path) -> int:
    """Bytes that stay in the cache: tables and the tars of the held-out set; files of both sets count once."""
    files = {}
    for split in ("train", "val"):
        index = json.loads((shards / "sentence" / split / "index.json").read_text())
        tars = index["shards"] if split == "val" else []
        files |= {entry["sha256"]: entry["bytes"] for entry in (*tars, *index["files"].values())}
    return sum(files.values())


@dataclass
class Site:
    """A server, the cache that it fills, and how full the cache ever was."""

    server: Server
    cache: Path
    limit: int
    folder: Path = Path()
    peaks: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Note the size of the cache."""
        sizes = []
        for path in (self.cache / "blobs").iterdir():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # fetched or evicted meanwhile
                continue
        self.peaks.append(sum(sizes))

    def requested_tars(self) -> list[str]:
        """Return the training tars that were requested, in order."""
        paths = [one.partition("@")[0] for one in self.server.requests]
        return [Path(one).stem for one in paths if "train" in one and one.endswith(".tar")]


@contextmanager
def staged(shards: Path, cache: Path) -> Iterator[Site]:
    """Serve the set and stage it in a cache that holds a good third of its tars."""
    with serving(shards) as server:
        site = Site(server, cache, kept_bytes(shards) + ROOM)

        def looked(path: str, data: bytes) -> bytes:
            if path.endswith(".tar"):
                site.look()
            return data

        server.change = looked
        how = {"cache": site.cache, "limit_gb": site.limit / 10**9, "progress": Quiet()}
        with local_shards(server.address, ["sentence"], **how) as site.folder:
            yield site
        assert site.peaks
        assert max(site.peaks) <= site.limit
