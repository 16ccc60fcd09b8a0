"""The tars of training sets that are larger than the cache: fetched block by block while the run trains.

A thread fetches the next block while the run trains on the current one. Every rank of a machine does the same, and the
lock of the cache lets one rank fetch at a time: the others find the files in the cache. A rank holds the files that it
reads by locks that end with its process, so a block can be evicted once the last rank has left it.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from msp_ds.config import from_json, read_json
from msp_ds.data.format import set_layout as layout
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.block_plan import GIGABYTE, BlockPlan
from msp_ds.data.loading.order import GlobalBatch
from msp_ds.data.loading.reader import Reader
from msp_ds.data.remote.blob_cache import BlobCache
from msp_ds.data.remote.remote_files import RemoteFolder
from msp_ds.errors import InputError
from msp_ds.storage.checksums import FileEntry

log = logging.getLogger(__name__)

PAUSE = 0.1  # seconds between two attempts to find space in the cache
WAIT_WARNING_SECONDS = 60  # seconds of waiting for space between two warnings

Block = tuple[int, int]  # (epoch, number)
Files = Mapping[str, FileEntry]  # path below the address -> size and sha256


@dataclass(frozen=True, kw_only=True)
class BlockSource:
    """The note in a set's folder that says where its tars come from."""

    address: str  # address of the folder that holds <stage>/<split>/
    cache: str  # folder
    limit: int  # bytes that the cache may hold
    kept: int  # bytes in it that stay as long as the run lasts


def block_source(sets: Sequence[ShardSet]) -> BlockSource | None:
    """Return where the tars of a stage's training sets come from; None where they are on this machine."""
    path = sets[0].path / layout.BY_BLOCK_NAME
    if not sets[0].comes_by_block:
        return None
    source = from_json(BlockSource, read_json(path, what="the note on where tars come from"), where=str(path))
    if not path.resolve().is_relative_to(Path(source.cache).resolve()):
        # Files of a cache are evicted: a set copied from elsewhere must not choose that folder.
        raise InputError(f"{path} names {source.cache}, which is not the cache that it lies in; name the set's address")
    return source


class Blocks:
    """The blocks that are here or being fetched. Only one thread calls, and no thread reads meanwhile."""

    def __init__(self, plan: BlockPlan, readers: Sequence[Reader], source: BlockSource) -> None:
        """readers: one per set, in the order of the plan."""
        self.plan = plan
        self._readers = readers
        self._remote = RemoteFolder(source.address)
        self._cache = BlobCache(Path(source.cache), limit=source.limit)
        self._worker = _Worker()
        self._wanted: list[Block] = []
        self._coming: dict[Block, Future[ExitStack]] = {}

    def enter(self, batch: GlobalBatch, following: GlobalBatch | None) -> None:
        """Release all blocks but those of `batch` and `following`, and begin to fetch those of them that are missing.

        A block whose fetching failed in the background is tried once more when a batch needs it.
        """
        self._wanted = list(_blocks_of(batch))
        near = [*self._wanted, *(_blocks_of(following) if following else ())]
        for block in self._coming.keys() - set(near):
            self._release(block)
        for reader, tars in zip(self._readers, self._fetched_tars(), strict=True):
            reader.files.close_all_but(tars)
        for block in dict.fromkeys(near):
            coming = self._coming.get(block)
            if coming is None or (block in self._wanted and coming.done() and coming.exception()):
                self._coming[block] = self._worker.submit(partial(self._bring, self._files(block)))

    def ready(self) -> bool:
        """Open the blocks of the entered batch and return True, or False while one is missing.

        Raises: InputError when a block cannot be fetched.
        """
        futures = [self._coming[block] for block in self._wanted]
        for future in futures:
            if future.done():
                future.result()
        if not all(future.done() for future in futures):
            return False
        for reader, tars in zip(self._readers, self._fetched_tars(), strict=True):
            reader.files.open(tars)
        return True

    def wait(self) -> None:
        """Return once `ready`. Raises: InputError when a block cannot be fetched."""
        while not self.ready():
            wait([self._coming[block] for block in self._wanted])

    def images(self, batch: GlobalBatch) -> Tensor:
        """Return int64 [n], ascending: the images of the batch's set in its blocks."""
        return self.plan.images(batch.epoch, batch.blocks)[batch.part]

    def close(self) -> None:
        """Stop fetching and release all files."""
        self._worker.stop()
        for reader in self._readers:
            reader.files.close_all_but([])
        for block in list(self._coming):
            self._release(block)

    def _release(self, block: Block) -> None:
        future = self._coming.pop(block)
        # A block that is still being fetched releases its files as soon as it has them.
        future.add_done_callback(_close)
        future.cancel()

    def _fetched_tars(self) -> list[set[int]]:
        """For each set, the tars of the wanted blocks that are here."""
        found: list[set[int]] = [set() for _ in self._readers]
        for block in self._wanted:
            future = self._coming.get(block)
            if future is not None and future.done() and future.exception() is None:
                for tars, more in zip(found, self.plan.tars(*block), strict=True):
                    tars.update(more.tolist())
        return found

    def _files(self, block: Block) -> Files:
        found = {}
        for reader, tars in zip(self._readers, self.plan.tars(*block), strict=True):
            shards, path = reader.shards.index.shards, reader.shards.path
            for shard in (shards[tar] for tar in tars.tolist()):
                entry = FileEntry(bytes=shard.bytes, sha256=shard.sha256)
                found[f"{path.parent.name}/{path.name}/{shard.name}"] = entry
        return found

    def _bring(self, files: Files, stop: threading.Event) -> ExitStack:
        """Fetch the files that are not here, once there is space for them; hold all until the result is closed."""
        needed = {entry.sha256: entry.bytes for entry in files.values()}
        began, lines = time.monotonic(), 0
        while True:
            with self._cache.locked():
                over = self._cache.evict_beside(needed)
                if not over:
                    self._cache.make_room(needed, what="the next shards")
                    self._fetch(files, stop)
                    return self._cache.hold(needed)
            if time.monotonic() - began > WAIT_WARNING_SECONDS * (lines + 1):
                lines += 1
                log.warning(
                    "waiting for %.2f GB of space in %s, which other runs hold", over / GIGABYTE, self._cache.folder
                )
            if stop.wait(PAUSE):
                raise _Stopped

    def _fetch(self, files: Files, stop: threading.Event) -> None:
        def advance(size: int) -> None:
            if stop.is_set():
                raise _Stopped

        for name, entry in files.items():
            if not self._cache.path(entry.sha256).exists():
                self._remote.fetch(name, entry, self._cache, advance=advance)


def _close(done: Future[ExitStack]) -> None:
    if not done.cancelled() and done.exception() is None:
        done.result().close()


def _blocks_of(batch: GlobalBatch) -> Iterator[Block]:
    return ((batch.epoch, number) for number in range(batch.blocks[0], batch.blocks[1] + 1))


class _Stopped(InputError):
    """Ends fetching when no batch needs the block any more."""


class _Worker:
    """A thread that runs one task after the other; a process that ends does not wait for it."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="blocks", daemon=True).start()

    def submit(self, work: Callable[[threading.Event], ExitStack]) -> Future[ExitStack]:
        """Run work(stop), which should end early once `stop` is set; return the future of its result."""
        future: Future[ExitStack] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(self._stop))
                except BaseException as error:
                    future.set_exception(error)

        self._work.put(run)
        return future

    def stop(self) -> None:
        """Make the thread end soon."""
        self._stop.set()
        self._work.put(lambda: None)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._work.get()()
