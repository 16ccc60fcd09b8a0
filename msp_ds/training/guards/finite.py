"""Losses and gradients that are not finite: named, noted for a replay, left out; too many in a row end the run.

The optimiser leaves such a step out by itself (engine.py), so weights and checkpoints stay finite whenever this is
looked at. An overflow of fp16 under a finite loss is no fault: the loss scale is there for it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from msp_ds.config import from_json, read_json, to_json, write_json
from msp_ds.errors import InputError
from msp_ds.records import Losses, MeanMetric
from msp_ds.training.distributed.runtime import Runtime

log = logging.getLogger(__name__)

FOLDER = "not-finite"
"""In a stage's folder: which batches had a loss that was not finite."""
MOST_FILES = 10
"""Batches that a rank notes of a stage; the first ones tell the most."""


@dataclass(frozen=True, kw_only=True)
class BatchInfo:
    """What a batch whose loss was not finite is rebuilt from, with the shards, and what is known of it."""

    stage: str
    part: str
    tasks: tuple[str, ...]
    step: int
    """From 0, as dropout and the order of pairs count; people count from 1."""
    epoch: int
    rank: int
    ranks: int
    """Of the run: they share the global batch."""
    micro_batch: int
    """Pairs that a rank takes through one forward pass."""
    number: int
    """Which of the rank's forward passes of the step, from 0."""
    num_blocks: int
    """In which the shards came, as --cache-limit decided; 1 where they were all there."""
    seed: int
    keys: tuple[int, ...]
    """Of the pairs, as Batch.keys has them."""
    losses: dict[str, float]
    """Each task's, before weighting."""


def deferred_bool(finite: Tensor) -> Callable[[], bool]:
    """What gives a bool scalar's value later, without making a GPU wait for the host."""
    if finite.device.type != "cuda":
        return lambda: bool(finite)
    answer = torch.empty((), dtype=torch.bool, pin_memory=True)
    answer.copy_(finite, non_blocking=True)
    copied = torch.cuda.current_stream(finite.device).record_event()

    def wait() -> bool:
        copied.synchronize()
        return bool(answer)

    return wait


def zeroed(metrics: Mapping[str, MeanMetric]) -> dict[str, MeanMetric]:
    """The same names with nothing counted: a mean over many steps must not be lost to one."""
    return {name: MeanMetric(torch.zeros_like(one.total), torch.zeros_like(one.count)) for name, one in metrics.items()}


class FiniteGuard:
    """Remembers which steps since the last check were not finite, on this rank and on the others."""

    def __init__(self, folder: Path, *, stage: str, stop_after: int, counts_norms: bool, runtime: Runtime) -> None:
        """folder: of the stage. stop_after: steps in a row that end the run. counts_norms: not in fp16."""
        self._folder = folder / FOLDER
        self._stage = stage
        self._stop_after = stop_after
        self._counts_norms = counts_norms
        self._runtime = runtime
        self._bad_losses: list[float] = []
        self._norms: list[Tensor] = []
        self._names: list[str] = []
        self._in_a_row = 0

    def keep(self, losses: Losses, info: BatchInfo) -> None:
        """Names a batch and notes it in the stage's folder, unless many are noted already."""
        values = {name: metric.mean() for name, metric in losses.metrics.items() if name.startswith("loss/")}
        bad = sorted(name for name, value in values.items() if not torch.tensor(value).isfinite())
        bad = [name for name in bad if name != "loss/total"] or ["loss/total"]
        self._names = bad
        more = f" and {len(info.keys) - 4} more" if len(info.keys) > 4 else ""
        some = ", ".join(map(str, info.keys[:4])) + more
        path = self._folder / f"step-{info.step + 1:08d}-rank-{info.rank}.json"
        told = self._write(path, dataclasses.replace(info, losses=values))
        log.warning(
            "%s not finite in step %d of stage %s, which is left out; pairs %s%s",
            *(_are(" and ".join(bad)), info.step + 1, self._stage, some, told),
        )

    def _write(self, path: Path, info: BatchInfo) -> str:
        """What to tell of the file."""
        if len(list(self._folder.glob(f"*-rank-{info.rank}.json"))) >= MOST_FILES:
            return f"; {self._folder} names {MOST_FILES} batches, no more are noted"
        try:
            write_batch_info(path, info)
        except OSError as error:
            return f"; the batch could not be noted ({str(error).strip()})"
        return f"; look into it with: msp-ds replay {path}"

    def note(self, finite: bool, norm: Tensor) -> None:
        """One optimiser step: whether this rank's losses were finite, and the gradient's norm over all ranks."""
        self._bad_losses.append(0.0 if finite else 1.0)
        self._norms.append(norm)

    def check(self, done: int) -> None:
        """What came of the steps up to `done` since the last check; every rank must call it.

        Raises FloatingPointError when `stop_after` steps in a row were left out.
        """
        if not self._bad_losses:
            return
        losses = torch.tensor(self._bad_losses, device=self._runtime.device)
        norms = torch.stack([norm.to(self._runtime.device, torch.float32) for norm in self._norms])
        overflows = (~norms.isfinite()).float() if self._counts_norms else torch.zeros_like(losses)
        bad_losses, bad_norms = self._runtime.all_reduce_max(torch.stack((losses, overflows))).tolist()
        self._bad_losses, self._norms = [], []
        said = self._runtime.any_error(" and ".join(self._names)) if any(bad_losses) else ""
        self._names = []
        for step, (loss, norm) in enumerate(zip(bad_losses, bad_norms, strict=True), start=done - len(bad_losses) + 1):
            self._in_a_row = self._in_a_row + 1 if loss or norm else 0
            if norm and not loss and self._runtime.is_first:
                log.warning("the gradient's norm is not finite in step %d, which is left out", step)
            if self._in_a_row >= self._stop_after:
                self._give_up(said if loss else "the gradient's norm", step)

    def _give_up(self, what: str, step: int) -> None:
        in_a_row = f", {self._in_a_row} steps in a row" if self._in_a_row > 1 else ""
        raise FloatingPointError(
            f"{_are(what)} not finite by step {step} of stage {self._stage}{in_a_row}; the last checkpoint is whole: "
            "continue from it with --resume, or start again with a smaller --lr"
        )


def _are(names: str) -> str:
    return f"{names} {'are' if ' and ' in names else 'is'}"


def write_batch_info(path: Path, info: BatchInfo) -> None:
    """Writes what a batch is rebuilt from. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # JSON has no number for a loss that is not finite, so losses are written as text.
    write_json(path, {**to_json(info), "losses": {name: str(value) for name, value in info.losses.items()}})


def read_batch_info(path: Path) -> BatchInfo:
    """What `write_batch_info` wrote. Raises InputError for any other file."""
    try:
        value = read_json(path, what="a batch that a run noted")
        losses = {name: float(text) for name, text in value["losses"].items()}
        info = from_json(BatchInfo, {**value, "losses": {}}, where=str(path))
    except (InputError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a batch that a run noted ({str(error).strip()}); they lie in STAGE/{FOLDER} of a run's "
            "folder"
        ) from None
    return dataclasses.replace(info, losses=losses)
