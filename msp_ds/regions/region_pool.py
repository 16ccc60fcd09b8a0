"""Regions of many pictures in their order, computed in this process or in several ones."""

import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from msp_ds.data.format.faults import RowError
from msp_ds.errors import InputError
from msp_ds.regions.detector import BoxDetector, DetectedRegions, Detector, DetectorOptions
from msp_ds.regions.detectors.find import find_detector
from msp_ds.regions.pictures import open_picture

T = TypeVar("T")
BATCH = 8
"""Pictures that a process gets at a time, and that a GPU gets together."""


PictureTask = tuple[Path, np.ndarray | None]
"""A picture, and a user's own boxes of it, float32 [R, 4] in pixels; None where the detector chooses."""


class PictureRegions(NamedTuple):
    """The regions of an upright picture."""

    regions: DetectedRegions
    height: int
    """Pixels."""
    width: int


PictureOutcome = PictureRegions | RowError
"""RowError: why the file cannot be opened."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread in the block: a process a core is faster, and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class RegionPool:
    """Computes the regions of pictures; they do not depend on the number of processes."""

    detector: str
    options: DetectorOptions
    max_pixels: int

    def outcomes(self, detector: Detector, tasks: Iterable[PictureTask]) -> Iterator[PictureOutcome]:
        """Yield the outcome of each task in order; threads open the next pictures while the detector works."""
        # A CPU gains nothing from batches, and one picture needs the least memory.
        batches = _batches(tasks, 1 if self.options.device == "cpu" else BATCH)
        with ThreadPoolExecutor(2) as threads:
            waiting = deque(threads.submit(self._opened, batch) for batch in islice(batches, 2))
            while waiting:
                opened = waiting.popleft().result()
                waiting.extend(threads.submit(self._opened, batch) for batch in islice(batches, 1))
                yield from _detected(detector, opened)

    def outcomes_of_processes(self, tasks: Iterable[PictureTask], num_processes: int) -> Iterator[PictureOutcome]:
        """Yield the outcome of each task in order. Raises: InputError when a process ends."""
        with self._processes(num_processes) as workers:
            waiting: deque[Connection] = deque()
            try:
                for number, batch in enumerate(_batches(tasks, BATCH)):
                    if len(waiting) == 2 * num_processes:
                        yield from _received(waiting.popleft())
                    waiting.append(workers[number % num_processes])
                    waiting[-1].send(batch)
                while waiting:
                    yield from _received(waiting.popleft())
            except (EOFError, ConnectionError):
                fix = "give the same command with fewer --jobs if it lacked memory"
                raise InputError(f"a process with {self.detector} ended before its work was done; {fix}") from None

    @contextmanager
    def _processes(self, count: int) -> Iterator[list[Connection]]:
        """Run processes that compute what is sent to them, until the block ends or this process does."""
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        processes = [context.Process(target=_serve, args=(self, there), daemon=True) for _, there in pipes]
        try:
            for process, (_, there) in zip(processes, pipes, strict=True):
                process.start()
                there.close()  # so that both ends notice when the other one ends
            yield [here for here, _ in pipes]
        finally:
            for process in processes:
                if process.pid:
                    process.terminate()
                    process.join()

    def _opened(self, batch: Sequence[PictureTask]) -> list[tuple[np.ndarray | RowError, np.ndarray | None]]:
        found: list[tuple[np.ndarray | RowError, np.ndarray | None]] = []
        for path, boxes in batch:
            try:
                found.append((open_picture(path, max_pixels=self.max_pixels), boxes))
            except RowError as error:
                found.append((error, boxes))
        return found


def _serve(pool: RegionPool, tasks: Connection) -> None:
    """The work of a process: batches in, outcomes out, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    logging.disable(logging.WARNING)  # and has opened the same detector: it has said what there is to say
    with one_thread(), suppress(EOFError, ConnectionError):
        try:
            detector = find_detector(pool.detector, options=pool.options)
            while True:
                tasks.send(list(pool.outcomes(detector, tasks.recv())))
        except InputError as error:
            tasks.send(error)


def _received(worker: Connection) -> list[PictureOutcome]:
    found: list[PictureOutcome] | InputError = worker.recv()
    if isinstance(found, InputError):
        raise found
    return found


def _detected(
    detector: Detector, opened: Sequence[tuple[np.ndarray | RowError, np.ndarray | None]]
) -> list[PictureOutcome]:
    pictures = [picture for picture, _ in opened if isinstance(picture, np.ndarray)]
    boxes = [own for picture, own in opened if own is not None and isinstance(picture, np.ndarray)]
    if isinstance(detector, BoxDetector) and boxes:
        found = iter(detector.detect_boxes(pictures, boxes))
    else:
        found = iter(detector.detect(pictures) if pictures else ())
    return [one if isinstance(one, RowError) else PictureRegions(next(found), *one.shape[:2]) for one, _ in opened]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
