"""The guard against losses and gradients that are not finite: it names them, notes their batches and ends a run.

The optimiser skips such a step by itself (engine.py), so weights and checkpoints stay finite however late the guard
checks. An fp16 overflow under a finite loss does not count: the loss scale handles it.
"""

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

FOLDER = "not-finite"  # folder in a stage's folder for the batches whose loss was not finite
MAX_FILES = 10  # batches that a rank notes in a stage


@dataclass(frozen=True, kw_only=True)
class BatchInfo:
    """What is needed, besides the shards, to rebuild a batch whose loss was not finite; and its losses."""

    stage: str
    part: str
    tasks: tuple[str, ...]
    step: int  # from 0, as in the order of pairs; messages count from 1
    epoch: int
    rank: int
    ranks: int  # number of ranks of the run
    micro_batch: int  # pairs in one forward pass of a rank
    number: int  # index of the forward pass within the rank's step, from 0
    num_blocks: int  # number of blocks of shards that --cache-limit has led to; 1 where all shards were local
    seed: int
    keys: tuple[int, ...]  # Batch.keys of the pairs
    losses: dict[str, float]  # loss of each task, before weighting


def deferred_bool(finite: Tensor) -> Callable[[], bool]:
    """Start to copy a bool scalar to the host; the returned function waits for the copy and gives its value."""
    if finite.device.type != "cuda":
        return lambda: bool(finite)
    value = torch.empty((), dtype=torch.bool, pin_memory=True)
    value.copy_(finite, non_blocking=True)
    copied = torch.cuda.current_stream(finite.device).record_event()

    def wait() -> bool:
        copied.synchronize()
        return bool(value)

    return wait


def zeroed(metrics: Mapping[str, MeanMetric]) -> dict[str, MeanMetric]:
    """The same names with empty means, so that a step that is not finite does not spoil the mean over many steps."""
    return {name: MeanMetric(torch.zeros_like(one.total), torch.zeros_like(one.count)) for name, one in metrics.items()}


class FiniteGuard:
    """Collects which steps were not finite on any rank, and ends the run after too many in a row."""

    def __init__(self, folder: Path, *, stage: str, stop_after: int, counts_norms: bool, runtime: Runtime) -> None:
        """folder: of the stage. stop_after: bad steps in a row that end the run. counts_norms: False for fp16."""
        self._folder = folder / FOLDER
        self._stage = stage
        self._stop_after = stop_after
        self._counts_norms = counts_norms
        self._runtime = runtime
        self._bad_losses: list[float] = []
        self._norms: list[Tensor] = []
        self._names: list[str] = []
        self._in_a_row = 0

    def note_batch(self, losses: Losses, info: BatchInfo) -> None:
        """Warn about a batch with a bad loss and note it in the stage's folder, up to MAX_FILES batches."""
        values = {name: metric.mean() for name, metric in losses.metrics.items() if name.startswith("loss/")}
        bad = sorted(name for name, value in values.items() if not torch.tensor(value).isfinite())
        bad = [name for name in bad if name != "loss/total"] or ["loss/total"]
        self._names = bad
        some = ", ".join(map(str, info.keys[:4])) + (f" and {len(info.keys) - 4} more" if len(info.keys) > 4 else "")
        path = self._folder / f"step-{info.step + 1:08d}-rank-{info.rank}.json"
        remark = self._write(path, dataclasses.replace(info, losses=values))
        log.warning(
            "%s not finite in step %d of stage %s, which is skipped; pairs %s%s",
            *(_are(" and ".join(bad)), info.step + 1, self._stage, some, remark),
        )

    def _write(self, path: Path, info: BatchInfo) -> str:
        if len(list(self._folder.glob(f"*-rank-{info.rank}.json"))) >= MAX_FILES:
            return f"; {self._folder} names {MAX_FILES} batches, no more are noted"
        try:
            write_batch_info(path, info)
        except OSError as error:
            return f"; the batch could not be noted ({str(error).strip()})"
        return f"; look into it with: msp-ds replay {path}"

    def note(self, finite: bool, norm: Tensor) -> None:
        """Record an optimiser step: whether this rank's losses were finite, and the gradient norm over all ranks."""
        self._bad_losses.append(0.0 if finite else 1.0)
        self._norms.append(norm)

    def check(self, done: int) -> None:
        """Check the steps recorded since the last check, up to step `done`; every rank must call it.

        Raises: FloatingPointError when `stop_after` steps in a row were not finite.
        """
        if not self._bad_losses:
            return
        losses = torch.tensor(self._bad_losses, device=self._runtime.device)
        norms = torch.stack([norm.to(self._runtime.device, torch.float32) for norm in self._norms])
        overflows = (~norms.isfinite()).float() if self._counts_norms else torch.zeros_like(losses)
        bad_losses, bad_norms = self._runtime.all_reduce_max(torch.stack((losses, overflows))).tolist()
        self._bad_losses, self._norms = [], []
        bad_names = self._runtime.any_error(" and ".join(self._names)) if any(bad_losses) else ""
        self._names = []
        for step, (loss, norm) in enumerate(zip(bad_losses, bad_norms, strict=True), start=done - len(bad_losses) + 1):
            self._in_a_row = self._in_a_row + 1 if loss or norm else 0
            if norm and not loss and self._runtime.is_first:
                log.warning("the gradient's norm is not finite in step %d, which is skipped", step)
            if self._in_a_row >= self._stop_after:
                what = bad_names if loss else "the gradient's norm"
                in_a_row = f", {self._in_a_row} steps in a row" if self._in_a_row > 1 else ""
                raise FloatingPointError(
                    f"{_are(what)} not finite by step {step} of stage "
                    f"{self._stage}{in_a_row}; the last checkpoint is whole: continue from it with --resume, or start "
                    "again with a smaller --lr"
                )


def _are(names: str) -> str:
    return f"{names} {'are' if ' and ' in names else 'is'}"


def write_batch_info(path: Path, info: BatchInfo) -> None:
    """Write the file of a batch. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # JSON has no infinity and no NaN, so losses are written as text.
    write_json(path, {**to_json(info), "losses": {name: str(value) for name, value in info.losses.items()}})


def read_batch_info(path: Path) -> BatchInfo:
    """Read a file of `write_batch_info`. Raises InputError for any other file."""
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
