"""How a run executes: precision, ZeRO stage, accumulation; from a file in ds_configs/ to DeepSpeed's dict.

What is computed (optimiser, schedule, batch size) is the run's own affair; this says how. The schema is ours and
strict, because DeepSpeed ignores keys that it does not know, and it never says "auto".
"""

from __future__ import annotations

import dataclasses
import site
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from msp_ds.config import from_json, read_json
from msp_ds.errors import InputError


def shipped(name: str) -> Path:
    """A file or folder that comes with the project: beside the package, or where its installation put it."""
    beside = Path(__file__).resolve().parents[3] / name
    return beside if beside.exists() else _installed_data() / name


def _installed_data() -> Path:
    """The folder of the data files: pip has a place for --target, for a plain installation and for --user."""
    places = (Path(__file__).resolve().parents[3], Path(sysconfig.get_path("data")), Path(site.getuserbase()))
    found = [place / "share" / "msp_ds" for place in places if (place / "share" / "msp_ds").is_dir()]
    return found[0] if found else places[1] / "share" / "msp_ds"


def find_shipped(path: Path) -> Path:
    """`path` as seen from here, or the one of that name that comes with the project."""
    return path if path.exists() or not shipped(str(path)).exists() else shipped(str(path))


SHIPPED = shipped("ds_configs")
"""The folder of ways to execute that come with the project."""

Precision = Literal["fp32", "fp16", "bf16"]

_NATIVE_BF16 = (8, 0)  # first CUDA compute capability (Ampere) that multiplies bf16 in hardware
_NEVER = 2**31 - 1  # steps between DeepSpeed's own progress lines: the loop prints better ones
_NOT_HERE = {
    **dict.fromkeys(
        ("fp16", "bf16", "bfloat16", "torch_autocast", "amp"), 'write "precision": "fp16", "bf16" or "fp32"'
    ),
    "zero_optimization": 'write "zero_stage", "bucket_elements", "overlap" and "offload_optimizer"',
    "train_micro_batch_size_per_gpu": 'write "micro_batch"',
    **dict.fromkeys(
        ("train_batch_size", "gradient_accumulation_steps"),
        'the batch is --batch-size, and "micro_batch" splits it; what they do not multiply to is worked out',
    ),
    "gradient_clipping": "use --set optim.clip_norm",
    **dict.fromkeys(("optimizer", "scheduler"), "use --lr and --set optim.NAME"),
}
"""DeepSpeed's own keys, and what stands for them in our files."""
_AUTOCAST_TYPES = {"fp16": "float16", "bf16": "bfloat16"}


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class LossScale:
    """The dynamic loss scale of fp16: the loss is multiplied so that small gradients do not underflow."""

    initial_scale_power: int = 16
    """The scale starts at 2 to this power."""
    loss_scale_window: int = 1000
    """Steps without an overflow after which the scale doubles."""
    hysteresis: int = 1
    """Overflows in a row that the scale endures before it halves; above 1 only with ZeRO."""
    min_loss_scale: int = 1
    """A scale that would have to fall below this ends the run."""

    def __post_init__(self) -> None:
        _check(0 <= self.initial_scale_power <= 32, f"initial_scale_power {self.initial_scale_power} is not in 0 to 32")
        for name in ("loss_scale_window", "hysteresis", "min_loss_scale"):
            _check(getattr(self, name) >= 1, f"{name} {getattr(self, name)} is not positive")
        _check(
            self.min_loss_scale <= 2**self.initial_scale_power,
            f"min_loss_scale {self.min_loss_scale} is above the initial scale 2^{self.initial_scale_power}; lower it",
        )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How to execute, whatever is executed."""

    precision: Precision
    """Of the multiplications; weights, moments and losses stay or have a master copy in fp32."""
    tf32: bool = False
    """fp32 alone: GPUs from Ampere on multiply in TF32, several times as fast, with 10 bits of fraction for 23."""
    zero_stage: int = 0
    """What ZeRO splits over the ranks: 0 nothing, 1 optimiser state, 2 and gradients, 3 and weights."""
    micro_batch: int | None = None
    """Largest number of pairs a rank takes through one forward pass; null: all of its share of the batch."""
    bucket_elements: int = 50_000_000
    """Gradients that ZeRO 1-3 gather into one message, in elements: a buffer of that size is held on the device."""
    overlap: bool = False
    """ZeRO 1-3: gradients travel while the backward pass goes on, at the cost of a second buffer."""
    offload_optimizer: bool = False
    """ZeRO 1-3: optimiser state and fp32 weights live in the host's memory, and the optimiser steps there."""
    compile: bool = False
    """torch.compile of the layers: it pays on a GPU, not on a CPU."""
    loss_scale: LossScale | None = None
    """With fp16 alone; null: the defaults."""

    def __post_init__(self) -> None:
        _check(0 <= self.zero_stage <= 3, f"zero_stage {self.zero_stage} is none of 0, 1, 2, 3")
        _check(self.micro_batch is None or self.micro_batch > 0, f"micro_batch {self.micro_batch} is not positive")
        _check(self.bucket_elements > 0, f"bucket_elements {self.bucket_elements} is not positive")
        for name in ("overlap", "offload_optimizer"):
            _check(
                self.zero_stage > 0 or not getattr(self, name),
                f"{name} has no effect with zero_stage 0; set it to false, or zero_stage to 2",
            )
        _check(
            self.zero_stage < 3 or not self.compile,
            "compile does not go with zero_stage 3, which takes the weights away between steps; set one of them lower",
        )
        _check(
            not self.tf32 or self.precision == "fp32",
            f"tf32 has no effect with precision {self.precision}; set it to false, or precision to fp32",
        )
        _check(
            self.loss_scale is None or self.precision == "fp16",
            f"loss_scale has no effect with precision {self.precision}; take it out, or set precision to fp16",
        )
        _check(
            self.zero_stage > 0 or self.fp16_scale.hysteresis == 1,
            "hysteresis above 1 has no effect with zero_stage 0; set it to 1, or zero_stage to 1",
        )

    @property
    def fp16_scale(self) -> LossScale:
        """The loss scale that holds if precision is fp16."""
        return self.loss_scale or LossScale()


def read_execution(path: Path) -> Execution:
    """The execution that a JSON file describes.

    Raises InputError, with the file's name, for a missing file, unknown or missing keys, ill-typed values and values
    that exclude each other.
    """
    shipped = ", ".join(sorted(file.name for file in SHIPPED.glob("*.json"))) or "none"
    value = read_json(find_shipped(path), what=f"a way to execute for --ds-config (ds_configs/ holds: {shipped})")
    _check_schema(path, value)
    try:
        return from_json(Execution, value, where=str(path))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _check_schema(path: Path, value: Any) -> None:
    """A file in DeepSpeed's own schema is told apart from a slip."""
    keys = [key for key in value if key in _NOT_HERE] if isinstance(value, dict) else []
    if {"fp16", "bf16"} <= set(keys):
        raise InputError(f"{path}: fp16 and bf16 exclude each other; {_NOT_HERE['fp16']} instead of both")
    if keys:
        raise InputError(
            f"{path}: {keys[0]} is a key of DeepSpeed's own configuration, which is made from the keys in "
            f"docs/training-and-scale-out.md; {_NOT_HERE[keys[0]]}"
        )


def choose_execution() -> tuple[str, Execution]:
    """The name and content of the shipped file that suits this machine.

    bf16 where every visible GPU multiplies it natively, fp16 on other GPUs, fp32 without a GPU. cpu_bf16 has to be
    asked for: few processors multiply bf16, and on a CPU exactness is usually the point.
    """
    name = _suitable_name()
    return name, read_execution(SHIPPED / f"{name}.json")


def _suitable_name() -> str:
    if not torch.cuda.is_available():
        return "cpu_fp32"
    # the weakest GPU decides, so that the ranks of one machine agree
    weakest = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    return "gpu_bf16" if weakest >= _NATIVE_BF16 else "titanx_fp16"


def accumulation(execution: Execution, *, batch_size: int, world_size: int) -> tuple[int, int]:
    """(pairs per rank and forward pass, forward passes per optimiser step), so that they multiply to the batch.

    batch_size: pairs in one optimiser step over all ranks. world_size: ranks.

    Raises InputError if the batch does not split evenly over the ranks, or a rank's share over its forward passes.
    """
    share, rest = divmod(batch_size, world_size)
    _check(
        share > 0 and rest == 0,
        f"a batch of {batch_size} pairs does not split evenly over {world_size} ranks; "
        f"use a number of ranks that divides {batch_size}, or a batch size that is a multiple of {world_size}",
    )
    micro = min(execution.micro_batch or share, share)
    _check(
        share % micro == 0,
        f"micro_batch {micro} does not divide the {share} pairs that each of {world_size} ranks takes of a batch of "
        f"{batch_size}; set it to {_largest_divisor(share, at_most=micro)}",
    )
    return micro, share // micro


def _largest_divisor(number: int, *, at_most: int) -> int:
    return next(divisor for divisor in range(at_most, 0, -1) if number % divisor == 0)


def deepspeed_config(execution: Execution, *, batch_size: int, world_size: int, clip_norm: float) -> dict[str, Any]:
    """The dict for deepspeed.initialize, with nothing left to its defaults that would change the result.

    batch_size: pairs in one optimiser step over all ranks. clip_norm: largest global gradient norm, 0 for no clipping
    (left out, DeepSpeed would clip at 1).
    """
    micro, steps = accumulation(execution, batch_size=batch_size, world_size=world_size)
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": steps,
        "gradient_clipping": float(clip_norm),
        "steps_per_print": _NEVER,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device twice in each forward pass
        "zero_optimization": _zero_block(execution),
        # torch's fused AdamW steps on the host as well, and needs no compiler
        **({"zero_force_ds_cpu_optimizer": False} if execution.offload_optimizer else {}),
        **_precision_block(execution),
    }


def _zero_block(execution: Execution) -> dict[str, Any]:
    if execution.zero_stage == 0:
        return {"stage": 0}
    size = execution.bucket_elements  # the default of 5e8 holds a gigabyte of a 12 GB card
    return {
        "stage": execution.zero_stage,
        "reduce_bucket_size": size,
        "allgather_bucket_size": size,
        "overlap_comm": execution.overlap,
        "offload_optimizer": {"device": "cpu" if execution.offload_optimizer else "none"},
    }


def _precision_block(execution: Execution) -> dict[str, Any]:
    """torch_autocast with ZeRO off, DeepSpeed's own fp16 or bf16 block with ZeRO on, never both.

    With ZeRO off, the fp16 block divides the gradients by a loss scale that it never multiplied the loss by; with ZeRO
    on, torch_autocast clips gradients that are still scaled.
    """
    if execution.precision == "fp32":
        return {}
    if execution.zero_stage == 0:
        return {"torch_autocast": {"enabled": True, "dtype": _AUTOCAST_TYPES[execution.precision]}}
    if execution.precision == "bf16":
        return {"bf16": {"enabled": True}}
    return {"fp16": {"enabled": True, "loss_scale": 0, **dataclasses.asdict(execution.fp16_scale)}}


def grad_scaler_settings(execution: Execution) -> dict[str, float]:
    """Arguments for the torch.amp.GradScaler of fp16 with ZeRO off, whose scale DeepSpeed's dict cannot set."""
    scale = execution.fp16_scale
    return {"init_scale": 2.0**scale.initial_scale_power, "growth_interval": scale.loss_scale_window}
