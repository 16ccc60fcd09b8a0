"""How many pairs fit into one forward pass: found by trial, at the start of a stage or once the memory ran out."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from msp_ds.errors import InputError
from msp_ds.records import Batch
from msp_ds.tasks.task import Task
from msp_ds.training.batch_loader import BatchLoader
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution, Precision

log = logging.getLogger(__name__)

SPARE_SHARE = 0.05
"""Of the device's memory, kept free in a trial: training takes and gives back in another order."""
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
_FULL, _HALF = 4, 2
"""Bytes of a number."""

Trial = Callable[[int], bool]
"""Whether this many pairs fit."""


def divisors(number: int) -> list[int]:
    """Of the largest first, down to 1."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def largest_fitting(sizes: Iterable[int], fits: Trial) -> int:
    """The first of `sizes` that fits, 0 when none does."""
    return next((size for size in sizes if fits(size)), 0)


def longest_pairs(loader: BatchLoader, part: int, count: int) -> Tensor:
    """int64 [count]: the rows of the longest texts of a part, which take the most memory."""
    return loader.readers[part].lengths.argsort(descending=True, stable=True)[:count]


def a_pass_fits(module: nn.Module, batch: Batch, tasks: Sequence[Task], *, precision: Precision) -> bool:
    """Whether a forward and a backward pass of a batch fit beside what is there. The module has no gradients after it.

    precision: of the multiplications, where the module does not see to it itself.
    """
    kind = _AUTOCAST.get(precision)
    with torch.autocast(batch.boxes.device.type, dtype=kind) if kind else contextlib.nullcontext():
        fits = _tries(lambda: module(batch, tasks, 0).total.backward())
    module.zero_grad(set_to_none=True)
    _let_go()
    return fits


def _tries(work: Callable[[], None]) -> bool:
    try:
        work()
    except torch.OutOfMemoryError:
        return False  # with the exception go the frames that hold the activations
    return True


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def state_bytes(execution: Execution, num_weights: int, *, world_size: int) -> int:
    """Bytes of weights, gradients, moments and copies that a rank holds beside the activations.

    As counted in DeepSpeed's engine on a CPU; ZeRO's optimiser takes its share of the gradients in fp32 once more, when
    the activations are gone.
    """
    half = execution.precision != "fp32"
    if execution.zero_stage == 0:  # gradients travel in their place
        return num_weights * (4 * _FULL + (_HALF if half else 0))
    number = _HALF if half else _FULL
    split = 0 if execution.offload_optimizer else 3 * _FULL * num_weights // world_size  # fp32 weights and moments
    buckets = number * execution.bucket_elements * (2 if execution.overlap else 1)
    return 2 * number * num_weights + split + buckets


def bytes_beside_trial(execution: Execution, num_weights: int, *, world_size: int) -> int:
    """What the engine will hold on the device beside what a trial does: fp32 weights, gradients, autocast's copies."""
    there = num_weights * (2 * _FULL + (_HALF if execution.precision != "fp32" else 0))
    return max(0, state_bytes(execution, num_weights, world_size=world_size) - there)


@contextmanager
def held(size: int, device: torch.device) -> Iterator[bool]:
    """Takes `size` bytes of a device as long as the block runs; whether there were so many."""
    taken: list[Tensor] = []
    there = _tries(lambda: taken.append(torch.empty(size, dtype=torch.uint8, device=device)))
    try:
        yield there
    finally:
        taken.clear()
        _let_go()


def fitting_micro_batch(
    model: nn.Module, loader: BatchLoader, execution: Execution, runtime: Runtime, *, batch_size: int
) -> int:
    """The largest micro batch that fits on every rank, by trial on the longest texts of every part of the stage.

    On a CPU that is a rank's whole share of the batch. Raises InputError when not even one pair fits.
    """
    share = max(1, batch_size // runtime.world_size)
    if not has_own_memory(runtime):
        return share
    if execution.zero_stage == 3:
        raise InputError(
            "--micro-batch auto tries a whole model out, which ZeRO 3 is there to avoid; give a number instead"
        )
    model.to(runtime.device)
    spare = int(SPARE_SHARE * torch.cuda.get_device_properties(runtime.device).total_memory)
    num_weights = sum(weight.numel() for weight in model.parameters())
    size = bytes_beside_trial(execution, num_weights, world_size=runtime.world_size) + spare
    with held(size, runtime.device) as there:
        found = largest_fitting(divisors(share), _trial(model, loader, execution.precision)) if there else 0
    found = -int(runtime.all_reduce_max(torch.tensor(-found, device=runtime.device)))  # the smallest of all ranks
    if not found:
        raise InputError(
            f"not even one pair fits into the memory of {runtime.describe()}; take a smaller --preset, or "
            "--ds-config ds_configs/zero2_offload.json"
        )
    log.info("micro batches of %d pairs fit, %d a step and rank", found, share // found)
    return found


def has_own_memory(runtime: Runtime) -> bool:
    """Whether the device has less memory than the machine, and says when it is full."""
    return runtime.device.type == "cuda"


def _trial(module: nn.Module, loader: BatchLoader, precision: Precision) -> Trial:
    def fits(size: int) -> bool:
        return all(
            a_pass_fits(
                module, loader.read(part, longest_pairs(loader, part, size), epoch=0), one.tasks, precision=precision
            )
            for part, one in enumerate(loader.parts)
        )

    return fits


def out_of_memory(
    module: nn.Module, loader: BatchLoader, execution: Execution, runtime: Runtime, *, micro_batch: int
) -> InputError:
    """What to say once a step did not fit: with ZeRO off, the largest micro batch that does, tried at once."""
    _let_go()
    smaller = divisors(micro_batch)[1:]
    module.zero_grad(set_to_none=True)
    tried = execution.zero_stage == 0 and loader.blocks is None
    advice = _tried_advice(smaller, _trial(module, loader, execution.precision)) if tried else _plain_advice(smaller)
    return InputError(
        f"out of GPU memory with {micro_batch} pairs a forward pass ({_taken(runtime)}); {advice}; "
        "the last checkpoint stays: go on with --resume"
    )


def _tried_advice(smaller: Iterable[int], fits: Trial) -> str:
    found = largest_fitting(smaller, fits)
    if not found:
        return "no smaller number fits either: take --ds-config ds_configs/zero2_offload.json or a smaller --preset"
    return f"{found} fit: give --micro-batch {found}, or --micro-batch auto"


def _plain_advice(smaller: Sequence[int]) -> str:
    if not smaller:
        return "take --ds-config ds_configs/zero2_offload.json or a smaller --preset"
    return f"give --micro-batch {smaller[0]} or less, or --micro-batch auto"


def _taken(runtime: Runtime) -> str:
    if not has_own_memory(runtime):
        return runtime.describe()
    peak = torch.cuda.max_memory_reserved(runtime.device) / 2**30
    whole = torch.cuda.get_device_properties(runtime.device).total_memory / 2**30
    return f"{peak:.1f} of {whole:.1f} GiB taken on {torch.cuda.get_device_name(runtime.device)}"
