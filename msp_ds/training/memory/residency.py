"""Whether the features of a stage stay on its device, and how they come there: --resident auto, always, never."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from msp_ds.config import RunConfig
from msp_ds.curriculum import Stage
from msp_ds.data.format.set_layout import SetIndex
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.reader import Reader
from msp_ds.data.loading.resident import FeatureTable, ResidentImages, table_bytes
from msp_ds.data.progress import NoProgress, Progress
from msp_ds.errors import InputError
from msp_ds.progress import bars
from msp_ds.tasks.task import Task, num_random_regions, pair_sampler
from msp_ds.training.batch_loader import READ_AHEAD
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution, accumulation
from msp_ds.training.guards.interrupt import Interrupted, StopRequest
from msp_ds.training.memory.footprint import Workload, count_weights, pair_bytes
from msp_ds.training.memory.memory import SPARE_SHARE, has_own_memory, state_bytes

log = logging.getLogger(__name__)

IMAGES_AT_ONCE = 512
"""Images that are read between two meetings of the ranks: 72 MiB."""
_GIB = 2**30
_HALF = 2
"""Bytes of a number of a feature."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a table and the steps beside it take of a device, and what is free there, in bytes."""

    table: int
    step: int
    spare: int
    free: float

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.table + self.step + self.spare <= self.free

    def told(self) -> str:
        """In words."""
        table, step, spare = (f"{size / _GIB:.2f}" for size in (self.table, self.step, self.spare))
        free = f"{self.free / _GIB:.2f} are" if self.free < math.inf else "an unknown number is"
        return f"they take {table} GiB, a step about {step}, {spare} are kept to spare, and {free} free"


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Decides for one stage, and brings the features."""

    stage: Stage
    config: RunConfig
    execution: Execution
    runtime: Runtime
    tables: list[FeatureTable]
    """Of the stages before; of this one, once its readers are there."""
    start: int = 0
    """Steps of the stage that are done."""
    stop: StopRequest = field(default_factory=StopRequest)
    """Looked at while features are read."""

    def check(self, sets: Sequence[ShardSet]) -> None:
        """Raises InputError where features are to be kept that cannot be: images of one name are taken for the same."""
        if self.execution.resident != "always":
            return
        for one in sets:
            if one.comes_by_block:
                raise InputError(
                    f"--resident always needs all shards here, but those of {one.path.parent.name} come block by "
                    "block; raise --cache-limit, or leave it out"
                )
        needed: list[ShardSet] = []
        for one in sorted(sets, key=table_bytes, reverse=True):
            if not any(set(one.keys) <= set(other.keys) for other in needed):
                needed.append(one)
        room = self.room(sum(table_bytes(one) for one in needed), sets)
        if not room.fits:
            raise self._refusal(room.told())

    def readers(self, sets: Sequence[ShardSet], plain: Sequence[Reader] = ()) -> list[Reader]:
        """The readers of a stage's training sets, made of `plain` ones if given. Every rank must call it.

        A set that an earlier table holds stays with it, even where a larger one that is read now has its images too.
        Raises ShardError, as `check`, and Interrupted when somebody asked to stop.
        """
        readers = list(plain) or [Reader(one) for one in sets]
        if against := self._against(sets):
            self._let_go([])
            if has_own_memory(self.runtime):
                self._say("come from the shards: %s", against)
            return readers
        found = self._known(readers)
        self._let_go([images.table for images in found.values()])
        if found and self._shortage(self.room(0, sets)):  # this stage's steps take more than those before
            found.clear()
            self._let_go([])
        for number in found:
            self._say("of %s are %s since an earlier stage", sets[number].path, self._place())
        missing = [number for number in range(len(sets)) if number not in found]
        # The largest first: it may hold the images of the others.
        for number in sorted(missing, key=lambda one: -table_bytes(sets[one])):
            if brought := self._brought(readers[number], sets):
                found[number] = brought
        return [reader.through(found[n]) if n in found else reader for n, reader in enumerate(readers)]

    def room(self, table: int, sets: Sequence[ShardSet]) -> Room:
        """What there is for a table of so many bytes beside the stage's steps."""
        sharers = 1 if has_own_memory(self.runtime) else self.runtime.ranks_here
        free, total = (size / sharers for size in memory_of(self.runtime.device))
        step = step_bytes(self.stage, sets, config=self.config, execution=self.execution, ranks=self.runtime.world_size)
        return Room(table=table, step=step, spare=int(SPARE_SHARE * total) if total < math.inf else 0, free=free)

    def _against(self, sets: Sequence[ShardSet]) -> str:
        """Why no features are kept, whatever room there is; empty where they may be."""
        wish = self.execution.resident
        if wish == "never":
            return "--resident never"
        if any(one.comes_by_block for one in sets):
            return "these come block by block"
        if wish == "always":
            return ""
        if not has_own_memory(self.runtime):
            return "on a CPU the page cache keeps them"
        pairs, images = self._pairs_to_go(sets), sum(one.index.num_images for one in sets)
        return f"a rank trains on {pairs:,} pairs, of {images:,} images" if pairs < images else ""

    def _pairs_to_go(self, sets: Sequence[ShardSet]) -> int:
        """Pairs that a rank trains on until the stage ends."""
        row = self.stage.schedule(self.config.schedule)
        steps = row.epochs * sum(one.index.num_pairs // row.batch_size for one in sets)
        steps = min(steps, self.config.max_steps or steps) - self.start
        return steps * row.batch_size // self.runtime.world_size

    def _known(self, readers: Sequence[Reader]) -> dict[int, ResidentImages]:
        """By the number of a set, the images of those that are in a table of an earlier stage."""
        # A function of its own, so that no variable holds on to a table that is let go.
        looked_for = {number: self._recognised(reader) for number, reader in enumerate(readers)}
        return {number: images for number, images in looked_for.items() if images is not None}

    def _recognised(self, reader: Reader) -> ResidentImages | None:
        """The images of a set in one of the tables; None unless one has them all, on every rank."""
        for table in self.tables:
            if (rows := table.rows_of(reader.shards)) is None:
                continue
            images, count = ResidentImages(reader.files, table, rows), reader.num_images
            starts = range(0, count, IMAGES_AT_ONCE)
            if all(self._agree(images.recognise(start, min(start + IMAGES_AT_ONCE, count))) for start in starts):
                return images
        return None

    def _brought(self, reader: Reader, sets: Sequence[ShardSet]) -> ResidentImages | None:
        """The images of a set, in a table that was read before or is now; None where there is no room for one."""
        if images := self._recognised(reader):
            self._say("are %s with those of another part", self._place())
            return images
        room = self.room(table_bytes(reader.shards), sets)
        shortage = self._shortage(room)
        table = None if shortage else self._allocated(reader.shards)
        if table is None:
            shortage = shortage or f"{room.told()}, but the system gives no such piece"
            if self.execution.resident == "always":
                raise self._refusal(shortage)
            self._say("come from the shards: %s", shortage)
            return None
        self._say("are read from the shards, to be %s: %s", self._place(), room.told())
        self.tables.append(table)
        images = ResidentImages(reader.files, table, np.arange(reader.num_images))
        self._load(images, reader)
        return images

    def _allocated(self, shards: ShardSet) -> FeatureTable | None:
        """An empty table; None where one rank has no room for it."""
        try:
            table = FeatureTable(shards, self.runtime.device)
        except MemoryError:
            table = None
        return table if self._agree(table is not None) else None

    def _load(self, images: ResidentImages, reader: Reader) -> None:
        """Reads a set into its table, shown where it takes long."""
        index, count, device = reader.shards.index, reader.num_images, self.runtime.device
        size = (min(IMAGES_AT_ONCE, count), index.num_regions, index.feature_width)
        through = torch.empty(*size, dtype=torch.float16, pin_memory=device.type == "cuda")
        began = time.monotonic()
        shown: AbstractContextManager[Progress] = bars() if self.runtime.is_first else nullcontext(NoProgress())
        with shown as progress:
            progress.start("features", count)
            for start in range(0, count, IMAGES_AT_ONCE):
                end = min(start + IMAGES_AT_ONCE, count)
                self.runtime.on_all_ranks(partial(images.load, start, end, through))
                self._stop_if_asked()
                progress.advance(end - start)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # whatever stream gathers from it later
        self._say("are %s after %.0f s", self._place(), time.monotonic() - began)

    def _stop_if_asked(self) -> None:
        """All ranks stop together, whichever of them was asked; nothing has been written."""
        if asked := int(self.runtime.all_reduce_max(torch.tensor(self.stop.signal, device=self.runtime.device))):
            place = f"after step {self.start}, which is saved" if self.start else "before the first step"
            raise Interrupted(asked, f"stopped {place}; --resume continues")

    def _let_go(self, but: Sequence[FeatureTable]) -> None:
        """Frees all tables but some, so that what is free can be told."""
        self.tables[:] = [table for table in self.tables if any(table is one for one in but)]
        gc.collect()
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()

    def _shortage(self, room: Room) -> str:
        """On every rank, what a rank without room says; empty where all have room."""
        return self.runtime.any_error("" if room.fits else room.told())

    def _agree(self, mine: bool) -> bool:
        """Whether it holds on every rank."""
        return not self.runtime.any_error("" if mine else "no")

    def _refusal(self, why: str) -> InputError:
        fix = "leave it out" + (
            ", or make the step smaller with --micro-batch" if self.execution.micro_batch != 1 else ""
        )
        return InputError(
            f"--resident always: the features of {self.stage.name} do not fit {self._place()}: {why}; {fix}"
        )

    def _place(self) -> str:
        device = self.runtime.device
        return "in this machine's memory" if device.type == "cpu" else f"on {torch.cuda.get_device_name(device)}"

    def _say(self, what: str, *values: object) -> None:
        log.info("%s: features " + what, self.stage.name, *values)


def counted(execution: Execution) -> Execution:
    """How a micro batch that is to be found out counts: whole, or as one pair where features stay whatever it costs."""
    return dataclasses.replace(execution, micro_batch=1 if execution.resident == "always" else None)


def step_bytes(stage: Stage, sets: Sequence[ShardSet], *, config: RunConfig, execution: Execution, ranks: int) -> int:
    """Bytes that a rank's steps take beside the features, about: weights, moments, activations, batches that wait.

    Of a mixed stage, those of the part that takes most.
    """
    batch_size, half = stage.schedule(config.schedule).batch_size, execution.precision != "fp32"
    micro_batch, _ = accumulation(execution, batch_size=batch_size, world_size=ranks)
    parts = []
    for part, one in zip(stage.parts, sets, strict=True):
        index, rows = one.index, pair_sampler(part.tasks).rows
        waiting = (index.num_regions + num_random_regions(part.tasks)) * index.feature_width * _HALF
        share = batch_size // ranks * (READ_AHEAD + 1)
        kept = micro_batch * pair_bytes(_load(config, part.tasks, index), half=half)
        parts.append((kept + share * waiting) * rows)
    num_weights = count_weights(_load(config, stage.tasks, sets[0].index))
    return int(state_bytes(execution, num_weights, world_size=ranks) + max(parts))


def _load(config: RunConfig, tasks: tuple[Task, ...], index: SetIndex) -> Workload:
    """What a pair of a set asks of the model."""
    return Workload(
        model=config.model,
        tasks=tasks,
        options=config.tasks,
        num_tokens=index.max_tokens,
        num_regions=index.num_regions,
    )


def memory_of(device: torch.device) -> tuple[float, float]:
    """Free and all bytes of a device's memory; infinite where the system does not tell."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return float(free), float(total)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf, math.inf
    sizes = {name: float(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes.get("MemAvailable", math.inf), sizes.get("MemTotal", math.inf)
