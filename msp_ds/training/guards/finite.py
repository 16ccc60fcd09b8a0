"""Losses and gradients that are not finite: named, kept for a replay, left out; too many in a row end the run.

The optimiser leaves such a step out by itself (engine.py), so weights and checkpoints stay finite whenever this is
looked at. An overflow of fp16 under a finite loss is no fault: the loss scale is there for it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from msp_ds.errors import InputError
from msp_ds.records import Batch, CorruptionInfo, Losses, MeanMetric
from msp_ds.training.distributed.runtime import Runtime

log = logging.getLogger(__name__)

FOLDER = "not-finite"
"""In a stage's folder: the batches whose loss was not finite."""
MOST_FILES = 10
"""Batches that a rank keeps of a stage; the first ones tell the most."""
_MARK = "marks."
_STORY = "story"


@dataclass(frozen=True, kw_only=True)
class BatchInfo:
    """What is known of a batch whose loss was not finite."""

    stage: str
    part: str
    tasks: tuple[str, ...]
    step: int
    """From 0, as dropout and the order of pairs count; people count from 1."""
    epoch: int
    rank: int
    seed: int
    losses: Mapping[str, float]
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

    def keep(self, batch: Batch, losses: Losses, info: BatchInfo) -> None:
        """Names a batch and writes it into the stage's folder, unless there are many already."""
        values = {name: metric.mean() for name, metric in losses.metrics.items() if name.startswith("loss/")}
        bad = sorted(name for name, value in values.items() if not torch.tensor(value).isfinite())
        bad = [name for name in bad if name != "loss/total"] or ["loss/total"]
        self._names = bad
        keys = batch.keys.tolist()
        some = ", ".join(map(str, keys[:4])) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        path = self._folder / f"step-{info.step + 1:08d}-rank-{info.rank}.safetensors"
        told = self._write(path, batch, dataclasses.replace(info, losses=values))
        log.warning(
            "%s not finite in step %d of stage %s, which is left out; pairs %s%s",
            *(_are(" and ".join(bad)), info.step + 1, self._stage, some, told),
        )

    def _write(self, path: Path, batch: Batch, info: BatchInfo) -> str:
        """What to tell of the file."""
        if len(list(self._folder.glob(f"*-rank-{info.rank}.safetensors"))) >= MOST_FILES:
            return f"; {self._folder} holds {MOST_FILES} batches, no more are kept"
        try:
            write_batch(path, batch, info)
        except (OSError, SafetensorError) as error:
            return f"; the batch could not be written ({str(error).strip()})"
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


def write_batch(path: Path, batch: Batch, info: BatchInfo) -> None:
    """Writes a clean batch as safetensors, its story in the header. Raises OSError or SafetensorError."""
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in _tensors_of(batch).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # A loss that is not finite is not valid JSON: its text is.
    told = {**dataclasses.asdict(info), "losses": {name: str(value) for name, value in info.losses.items()}}
    save_file(tensors, path, metadata={"format": "pt", _STORY: json.dumps(told)})


def read_batch(path: Path) -> tuple[Batch, BatchInfo]:
    """The batch and the story that `write_batch` wrote. Raises InputError when the file is none of its."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            told: dict[str, Any] = json.loads((file.metadata() or {})[_STORY])
        corruption = {name.removeprefix(_MARK): value for name, value in tensors.items() if name.startswith(_MARK)}
        fields = {name: value for name, value in tensors.items() if not name.startswith(_MARK)}
        losses = {name: float(text) for name, text in told.pop("losses").items()}
        info = BatchInfo(**{**told, "tasks": tuple(told["tasks"]), "losses": losses})
        return Batch(**fields, corruption=CorruptionInfo(**corruption)), info
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no batch that a run kept ({str(error).strip()}); they lie in STAGE/{FOLDER} of a run's folder"
        ) from None


def _tensors_of(batch: Batch) -> dict[str, Tensor]:
    own = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if item.name != "corruption"}
    corruption = {
        f"{_MARK}{item.name}": getattr(batch.corruption, item.name) for item in dataclasses.fields(batch.corruption)
    }
    return {**own, **corruption}
