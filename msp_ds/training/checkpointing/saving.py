"""Saving while training continues: the state is copied, and a thread writes the copy.

A checkpoint is written under another name, synced to the disk and renamed when it is whole. A run that is killed while
it saves continues from the checkpoint before, and a save that fails leaves everything as it was.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from msp_ds.config import to_json
from msp_ds.errors import CheckpointError, InputError
from msp_ds.model.weights.tensor_files import is_half_written, write_safetensors
from msp_ds.storage.atomic_files import (
    replace_folder,
    require_own_files,
    sync_folder,
    write_atomically,
    write_durably,
)
from msp_ds.storage.checksums import entry_of_file
from msp_ds.training.checkpointing.checkpoint import (
    BEST,
    MANIFEST,
    OPTIMIZER,
    WEIGHTS,
    checkpoints,
    read_manifest,
    read_tensors,
    validation_loss,
)
from msp_ds.training.distributed.runtime import COLLECTIVE_TIMEOUT, Runtime
from msp_ds.training.engine.engine_state import EngineState, gather_state, load_state

if TYPE_CHECKING:
    from msp_ds.training.engine.engine import Engine

log = logging.getLogger(__name__)

_TURN = COLLECTIVE_TIMEOUT.total_seconds() / 4
"""Seconds that rank 0 waits for its disk before it exchanges a sign of life with the others."""
_WRITING, _GOING = "writing", "going"
"""Endings of the names of folders that are being written and deleted."""
_FILES = (MANIFEST, WEIGHTS, OPTIMIZER)
_NAME = re.compile(r"step-\d{8,}")


class Saver:
    """Writes a stage's checkpoints, one at a time, on the first rank; every rank makes the same calls."""

    def __init__(self, folder: Path, *, keep: int, runtime: Runtime, alive: Callable[[], None] = lambda: None) -> None:
        """keep: number of newest checkpoints to keep beside the best one. alive: called repeatedly while it waits."""
        self.folder = folder
        self.failure = ""
        """On rank 0 after `wait`: why the last save failed; empty if it did not."""
        self._keep = keep
        self._runtime = runtime
        self._alive = alive
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._writing: Future[str] | None = None

    def path(self, step: int) -> Path:
        """The checkpoint after `step` optimiser steps."""
        return self.folder / f"step-{step:08d}"

    def save(self, engine: Engine, *, step: int, state: Mapping[str, Any]) -> None:
        """Copy the engine's state after `step` steps, once the save before is done, and write it in the background."""
        self.wait()
        copied = gather_state(engine, self._runtime)
        if copied is not None:
            self._writing = self._pool.submit(self._write, self.path(step), copied, step, dict(state))

    def wait(self) -> None:
        """Return when nothing is being written.

        Every few seconds the ranks exchange a value, so that no collective times out however slow the disk is.
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
        """Wait for the last save. Raises CheckpointError, on every rank, when it failed."""
        self.wait()
        self._runtime.on_rank_zero(self._raise_failure)

    def _raise_failure(self) -> None:
        if self.failure:
            raise CheckpointError(f"{self.failure}; free disk space, then continue with --resume")

    def close(self) -> None:
        """Wait for the save that is being written, without the other ranks."""
        self._pool.shutdown()

    def _write(self, path: Path, copied: EngineState, step: int, state: Mapping[str, Any]) -> str:
        """Write a checkpoint in the thread; returns why it failed, empty if it did not."""
        try:
            write_checkpoint(path, copied, step=step, state=state)
            prune(self.folder, newest=path, keep=self._keep)
        except (InputError, OSError, SafetensorError) as error:
            last = next((one.name for one in reversed(checkpoints(self.folder))), "none")
            reason = f"{path} could not be saved ({str(error).strip()}); the last whole checkpoint is {last}"
            log.error("%s; training goes on", reason)
            return reason
        return ""


def write_checkpoint(path: Path, copied: EngineState, *, step: int, state: Mapping[str, Any]) -> None:
    """Write a checkpoint as a whole or not at all. Raises OSError or SafetensorError when that fails."""
    clean_up(path.parent)
    prepared = path.with_name(f".{path.name}.{_WRITING}")
    prepared.mkdir(parents=True)
    try:
        entries = {}
        for name, tensors in ((WEIGHTS, copied.weights), (OPTIMIZER, copied.moments)):
            file = prepared / name
            write_safetensors(file, tensors)
            entries[name] = entry_of_file(file)
        manifest = {"step": step, "files": entries, "state": dict(state), "loss_scale": copied.loss_scale}
        write_durably(prepared / MANIFEST, (json.dumps(to_json(manifest), indent=2) + "\n").encode())
        with _others_kept(path, prepared):
            sync_folder(prepared)
            replace_folder(prepared, path)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)  # frees the disk after a failure; after a success it is gone


@contextmanager
def _others_kept(path: Path, prepared: Path) -> Iterator[None]:
    """Move files of the user from a checkpoint to the one that replaces it; move them back where that fails."""
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


def clean_up(folder: Path) -> None:
    """Remove the folders that killed saves and killed deletions have left."""
    for kind in (_WRITING, _GOING):
        for path in folder.glob(f".step-*.{kind}"):
            if _is_own(path, name=path.name.removeprefix(".").removesuffix(f".{kind}")):
                shutil.rmtree(path)


def _is_own(path: Path, *, name: str) -> bool:
    """Whether `name` is a checkpoint's and the folder holds only a checkpoint's files, so that it may be deleted."""
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
    """Point to the best checkpoint and remove all but that and the last `keep`.

    Checkpoints after `newest` are removed too: they were found damaged, and training continued from an earlier one.
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
            going = path.with_name(f".{path.name}.{_GOING}")  # a half deleted folder is never taken for a checkpoint
            path.rename(going)
            shutil.rmtree(going)


def load_optimizer(path: Path, engine: Engine, runtime: Runtime) -> None:
    """Load moments, loss scale and master weights into an engine whose module has the checkpoint's weights already.

    Raises: CheckpointError when a file is damaged.
    """
    state = EngineState(
        weights=read_tensors(path / WEIGHTS),
        moments=read_tensors(path / OPTIMIZER),
        loss_scale=read_manifest(path).loss_scale,
    )
    load_state(state, engine, runtime)
