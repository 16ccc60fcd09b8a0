"""The number of pairs that fit into one forward pass, found by trial at a stage's start or when memory ran out."""

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
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

SPARE_RATIO = 0.05  # ratio of the device's memory that a trial leaves free: training allocates in another order
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
_FULL, _HALF = 4, 2  # bytes of a number


def divisors(number: int) -> list[int]:
    """The divisors of a number, largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def a_pass_fits(module: nn.Module, batch: Batch, tasks: Sequence[Task], *, precision: Precision) -> bool:
    """Whether a forward and a backward pass of a batch fit. Afterwards the module has no gradients.

    precision: of the matrix products; the trial applies autocast itself.
    """
    dtype = _AUTOCAST.get(precision)
    with torch.autocast(batch.boxes.device.type, dtype=dtype) if dtype else contextlib.nullcontext():
        fits = _tries(lambda: module(batch, tasks, 0).total.backward())
    module.zero_grad(set_to_none=True)
    _free_memory()
    return fits


def _tries(work: Callable[[], None]) -> bool:
    try:
        work()
    except torch.OutOfMemoryError:
        return False  # the frames that hold the activations go with the exception
    return True


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def state_bytes(execution: Execution, num_weights: int, *, world_size: int) -> int:
    """Bytes of weights, gradients, moments and copies that a rank holds beside the activations.

    The formula was counted in DeepSpeed's engine on a CPU. ZeRO's optimiser copies its partition of the gradients to
    fp32 once more, when the activations are freed.
    """
    half = execution.precision != "fp32"
    if execution.zero_stage == 0:  # gradients are reduced in place
        return num_weights * (4 * _FULL + (_HALF if half else 0))
    number = _HALF if half else _FULL
    split = 0 if execution.offload_optimizer else 3 * _FULL * num_weights // world_size  # fp32 weights and moments
    buckets = number * execution.bucket_elements * (2 if execution.overlap else 1)
    return 2 * number * num_weights + split + buckets


def bytes_beside_trial(execution: Execution, num_weights: int, *, world_size: int) -> int:
    """Bytes that an engine holds beside those of a trial: fp32 weights, gradients and autocast's copies."""
    in_trial = num_weights * (2 * _FULL + (_HALF if execution.precision != "fp32" else 0))
    return max(0, state_bytes(execution, num_weights, world_size=world_size) - in_trial)


@contextmanager
def held(size: int, device: torch.device) -> Iterator[bool]:
    """Allocate `size` bytes of a device inside the block; yields whether that succeeded."""
    blocks: list[Tensor] = []
    succeeded = _tries(lambda: blocks.append(torch.empty(size, dtype=torch.uint8, device=device)))
    try:
        yield succeeded
    finally:
        blocks.clear()
        _free_memory()


def fitting_micro_batch(
    model: nn.Module, loader: BatchLoader, execution: Execution, runtime: Runtime, *, batch_size: int
) -> int:
    """The largest micro batch that fits on every rank, by trial on the longest texts of every granularity of the stage.

    On a CPU it is all pairs of a rank. Raises InputError when no pair fits, and for shards that come by block.
    """
    if loader.blocks is not None:
        raise InputError(
            "--micro-batch auto reads the longest texts first, for which all shards have to be here; raise "
            "--cache-limit, or give a number"
        )
    per_rank = max(1, batch_size // runtime.world_size)
    if not has_own_memory(runtime):
        return per_rank
    if execution.zero_stage == 3:
        raise InputError(
            "--micro-batch auto tries the whole model on each device, which ZeRO 3 avoids; give a number instead"
        )
    model.to(runtime.device)
    spare = int(SPARE_RATIO * torch.cuda.get_device_properties(runtime.device).total_memory)
    num_weights = sum(weight.numel() for weight in model.parameters())
    size = bytes_beside_trial(execution, num_weights, world_size=runtime.world_size) + spare
    with held(size, runtime.device) as fits:
        found = next(filter(_trial(model, loader, execution.precision), divisors(per_rank)), 0) if fits else 0
    found = -int(runtime.all_reduce_max(torch.tensor(-found, device=runtime.device)))  # the minimum over ranks
    if not found:
        raise InputError(
            f"not even one pair fits into the memory of {runtime.describe()}; take a smaller --preset, or "
            "--ds-config ds_configs/zero2_offload.json"
        )
    log.info("micro batches of %d pairs fit, %d a step and rank", found, per_rank // found)
    return found


def has_own_memory(runtime: Runtime) -> bool:
    """Whether the device is a GPU, which raises an error when its own memory is full."""
    return runtime.device.type == "cuda"


def _trial(module: nn.Module, loader: BatchLoader, precision: Precision) -> Callable[[int], bool]:

    def fits(size: int) -> bool:
        for part, granularity in enumerate(loader.parts):
            longest = loader.readers[part].lengths.argsort(descending=True, stable=True)[:size]
            if not a_pass_fits(module, loader.read(part, longest, epoch=0), granularity.tasks, precision=precision):
                return False
        return True

    return fits


def out_of_memory(
    module: nn.Module, loader: BatchLoader, execution: Execution, runtime: Runtime, *, micro_batch: int
) -> InputError:
    """The error for a step that did not fit; with ZeRO off it names the largest micro batch that does, by trial."""
    _free_memory()
    smaller = divisors(micro_batch)[1:]
    module.zero_grad(set_to_none=True)
    found = smaller[0] if smaller else 0
    advice = f"give --micro-batch {found} or less, or --micro-batch auto"
    less = "take --ds-config ds_configs/zero2_offload.json or a smaller --preset"
    if execution.zero_stage == 0 and loader.blocks is None:
        found = next(filter(_trial(module, loader, execution.precision), smaller), 0)
        advice = f"{found} fit: give --micro-batch {found}, or --micro-batch auto"
        less = f"no smaller number fits either: {less}"
    return InputError(
        f"out of GPU memory with {micro_batch} pairs a forward pass ({_usage(runtime)}); {advice if found else less}; "
        "the last checkpoint stays: go on with --resume"
    )


def _usage(runtime: Runtime) -> str:
    if not has_own_memory(runtime):
        return runtime.describe()
    peak = torch.cuda.max_memory_reserved(runtime.device) / 2**30
    whole = torch.cuda.get_device_properties(runtime.device).total_memory / 2**30
    return f"{peak:.1f} of {whole:.1f} GiB taken on {torch.cuda.get_device_name(runtime.device)}"
