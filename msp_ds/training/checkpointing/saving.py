"""Saving while training goes on: the state is copied, and a thread writes the copy.

A checkpoint is written under another name, forced down to the disk and renamed when it is whole. So a run that is
killed while saving continues from the one before, and a save that fails leaves everything as it was.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from msp_ds.config import to_json
from msp_ds.errors import CheckpointError, InputError
from msp_ds.model.weights.tensor_files import is_half_written
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.storage.checksums import FileEntry
from msp_ds.storage.durable import replace_folder, require_own_files, sync_folder, write_durably
from msp_ds.training.checkpointing.checkpoint import (
    BEST,
    MANIFEST,
    OPTIMIZER,
    WEIGHTS,
    checkpoints,
    read_manifest,
    read_tensors,
    sha256_of,
    validation_loss,
)
from msp_ds.training.distributed.runtime import COLLECTIVE_TIMEOUT, Runtime
from msp_ds.training.engine.engine_state import EngineState, put_state, take_state

if TYPE_CHECKING:
    from msp_ds.training.engine.engine import Engine

log = logging.getLogger(__name__)

_TURN = COLLECTIVE_TIMEOUT.total_seconds() / 4
"""Seconds that the first rank waits for its disk before it gives the others a sign."""
_WRITING, _GOING = "writing", "going"
_FILES = (MANIFEST, WEIGHTS, OPTIMIZER)
_NAME = re.compile(r"step-\d{8,}")


class Saver:
    """Writes a stage's checkpoints, one at a time, on the first rank; every rank makes the same calls."""

    def __init__(self, folder: Path, *, keep: int, runtime: Runtime, alive: Callable[[], None] = lambda: None) -> None:
        """keep: how many of the newest checkpoints stay; the best one stays too. alive: called while it waits."""
        self.folder = folder
        self.failure = ""
        """Why the last save did not succeed; on the first rank, after `wait`."""
        self._keep = keep
        self._runtime = runtime
        self._alive = alive
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._writing: Future[str] | None = None

    def path(self, step: int) -> Path:
        """The checkpoint after `step` optimiser steps."""
        return self.folder / f"step-{step:08d}"

    def save(self, engine: Engine, *, step: int, state: Mapping[str, Any]) -> None:
        """Copies what `step` optimiser steps have learnt, and writes it in the background.

        Returns as soon as it is copied; a save that is still being written is waited for before.
        """
        self.wait()
        taken = take_state(engine, self._runtime)
        if taken is not None:
            self._writing = self._pool.submit(self._write, self.path(step), taken, step, dict(state))

    def wait(self) -> None:
        """Returns when nothing is being written.

        The ranks wait together and in turns: however slow the disk is, none believes that another is dead.
        """
        while int(self._runtime.all_reduce_max(torch.tensor(self._is_writing(), device=self._runtime.device))):
            self._alive()

    def _is_writing(self) -> int:
        if self._writing is None:
            return 0
        if not wait([self._writing], timeout=_TURN).done:
            log.warning("still writing a checkpoint to %s; training waits for it", self.folder)
            return 1
        self.failure, self._writing = self._writing.result(), None
        return 0

    def finish(self) -> None:
        """Waits for the last save. Raises CheckpointError, on every rank, when it failed."""
        self.wait()
        self._runtime.on_rank_zero(self._complain)

    def _complain(self) -> None:
        if self.failure:
            raise CheckpointError(f"{self.failure}; make room, then continue with --resume")

    def close(self) -> None:
        """Lets a save that is being written end, whatever the others do."""
        self._pool.shutdown()

    def _write(self, path: Path, taken: EngineState, step: int, state: Mapping[str, Any]) -> str:
        """In the thread: why it failed, nothing where it did not."""
        try:
            write_checkpoint(path, taken, step=step, state=state)
            prune(self.folder, newest=path, keep=self._keep)
        except (InputError, OSError, SafetensorError) as error:
            last = next((one.name for one in reversed(checkpoints(self.folder))), "none")
            reason = f"{path} could not be saved ({str(error).strip()}); the last whole checkpoint is {last}"
            log.error("%s; training goes on", reason)
            return reason
        return ""


def write_checkpoint(path: Path, taken: EngineState, *, step: int, state: Mapping[str, Any]) -> None:
    """Writes all of a checkpoint, or nothing. Raises OSError or SafetensorError when the disk does not take it."""
    clean_up(path.parent)
    prepared = path.with_name(f".{path.name}.{_WRITING}")
    prepared.mkdir(parents=True)
    try:
        files = {WEIGHTS: taken.weights, OPTIMIZER: dict(taken.moments)}
        manifest = {
            "step": step,
            "files": {name: _write_tensors(prepared / name, tensors) for name, tensors in files.items()},
            "state": dict(state),
            "loss_scale": taken.loss_scale,
        }
        write_durably(prepared / MANIFEST, (json.dumps(to_json(manifest), indent=2) + "\n").encode())
        with _others_kept(path, prepared):
            sync_folder(prepared)
            replace_folder(prepared, path)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)  # its room is needed by the next; gone where all went well


@contextmanager
def _others_kept(path: Path, prepared: Path) -> Iterator[None]:
    """Moves what is not ours to delete from a checkpoint to the one that takes its place, back where that fails."""
    others = [one.name for one in path.iterdir() if one.name not in _FILES] if path.is_dir() else []
    try:
        for name in others:
            (path / name).rename(prepared / name)
        yield
    except BaseException:
        for name in others:
            with suppress(FileNotFoundError):
                (prepared / name).rename(path / name)
        raise


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    save_file(dict(tensors), file, metadata={"format": "pt"})
    with file.open("rb+") as written:
        os.fsync(written.fileno())
    return FileEntry(bytes=file.stat().st_size, sha256=sha256_of(file))


def clean_up(folder: Path) -> None:
    """Removes what killed saves and killed removals have left in a folder."""
    for kind in (_WRITING, _GOING):
        for path in folder.glob(f".step-*.{kind}"):
            if _is_own(path, name=path.name.removeprefix(".").removesuffix(f".{kind}")):
                shutil.rmtree(path)


def _is_own(path: Path, *, name: str) -> bool:
    """Whether a folder is named as the checkpoint `name` and holds nothing more than one, so that it may go."""
    if path.is_symlink() or not _NAME.fullmatch(name):
        return False
    try:
        require_own_files(
            path,
            is_own=lambda name: name in _FILES or is_half_written(name),
            what="a checkpoint",
            fix=f"{path.name} stays until you move it",
        )
    except InputError as error:
        log.warning("%s", error)
        return False
    return True


def prune(folder: Path, *, newest: Path, keep: int) -> None:
    """Points to the best checkpoint and removes those that are neither the best nor among the last `keep`.

    Those after `newest` are of a future that did not come to pass: they were found damaged, and training went on from
    before them.
    """
    past = [path for path in checkpoints(folder) if path <= newest]
    losses = {path: loss for path in past if (loss := validation_loss(path)) is not None and math.isfinite(loss)}
    kept = set(past[-keep:])
    if losses:
        best = min(losses, key=lambda path: (losses[path], path))
        kept.add(best)
        write_atomically(folder / BEST, f"{best.name}\n".encode())
    for path in folder.glob("step-*"):
        if path not in kept and _is_own(path, name=path.name):
            going = path.with_name(f".{path.name}.{_GOING}")  # so that no half of it is ever taken for a checkpoint
            path.rename(going)
            shutil.rmtree(going)


def load_optimizer(path: Path, engine: Engine, runtime: Runtime) -> None:
    """Gives an engine whose module has a checkpoint's weights its moments and loss scale too, in the engine's layout.

    Raises CheckpointError when a file is no table of tensors.
    """
    state = EngineState(
        weights=read_tensors(path / WEIGHTS),
        moments=read_tensors(path / OPTIMIZER),
        loss_scale=read_manifest(path).loss_scale,
    )
    put_state(state, engine, runtime)
