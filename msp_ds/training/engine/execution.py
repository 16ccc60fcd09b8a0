"""How a run executes: precision, ZeRO stage and accumulation, from a file in ds_configs/ to DeepSpeed's dict.

What is computed (optimiser, schedule, batch size) belongs to the run's configuration. The schema is our own and strict,
because DeepSpeed ignores keys that it does not know, and it has no "auto".
"""

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
    """A file or folder that is shipped with the project: beside the package, or where pip has put data files."""
    root = Path(__file__).resolve().parents[3]
    if (root / name).exists():
        return root / name
    # Of `pip install --target`, of a plain installation and of `--user`.
    bases = (root, Path(sysconfig.get_path("data")), Path(site.getuserbase()))
    folders = [base / "share" / "msp_ds" for base in bases]
    return next((folder for folder in folders if folder.is_dir()), folders[1]) / name


def find_shipped(path: Path) -> Path:
    """`path` if it exists, else the shipped file or folder of that name, if there is one."""
    return path if path.exists() or not shipped(str(path)).exists() else shipped(str(path))


SHIPPED = shipped("ds_configs")  # the folder of the execution files that are shipped with the project

Precision = Literal["fp32", "fp16", "bf16"]

NATIVE_BF16 = (8, 0)  # first CUDA compute capability (Ampere) that multiplies bf16 in hardware
_NEVER = 2**31 - 1  # steps between DeepSpeed's own progress lines: the loop prints better ones
_NOT_HERE = {
    **dict.fromkeys(
        ("fp16", "bf16", "bfloat16", "torch_autocast", "amp"), 'write "precision": "fp16", "bf16" or "fp32"'
    ),
    "zero_optimization": 'write "zero_stage", "bucket_elements", "overlap" and "offload_optimizer"',
    "train_micro_batch_size_per_gpu": 'write "micro_batch"',
    **dict.fromkeys(
        ("train_batch_size", "gradient_accumulation_steps"),
        'the batch is --batch-size, and "micro_batch" splits it; the rest follows from them',
    ),
    "gradient_clipping": "use --set optim.clip_norm",
    **dict.fromkeys(("optimizer", "scheduler"), "use --lr and --set optim.NAME"),
}
"""Keys of DeepSpeed's own schema -> what to write in our files instead."""
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
    """Overflows in a row after which the scale halves; above 1 only with ZeRO."""
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
    """How a run executes, independent of what it computes."""

    precision: Precision
    """Precision of the matrix multiplications; weights, moments and losses are fp32 or have an fp32 master copy."""
    tf32: bool = False
    """With fp32 only: let GPUs multiply in TF32, several times as fast, with 10 instead of 23 fraction bits."""
    zero_stage: int = 0
    """What ZeRO partitions over the ranks: 0 nothing, 1 optimiser state, 2 also gradients, 3 also weights."""
    micro_batch: int | None = None
    """Largest number of pairs in one forward pass of a rank; null: all pairs of the rank."""
    bucket_elements: int = 50_000_000
    """Elements of gradients that ZeRO 1-3 reduce in one message; a buffer of that size is held on the device."""
    overlap: bool = False
    """ZeRO 1-3: reduce gradients while the backward pass runs, at the cost of a second buffer."""
    offload_optimizer: bool = False
    """ZeRO 1-3: keep optimiser state and fp32 weights in the host's memory and run the optimiser there."""
    compile: bool = False
    """torch.compile of the layers, for GPUs; on a CPU it does not pay."""
    loss_scale: LossScale | None = None
    """With fp16 only; null: the defaults."""

    def __post_init__(self) -> None:
        _check(0 <= self.zero_stage <= 3, f"zero_stage {self.zero_stage} is not 0, 1, 2 or 3")
        _check(self.micro_batch is None or self.micro_batch > 0, f"micro_batch {self.micro_batch} is not positive")
        _check(self.bucket_elements > 0, f"bucket_elements {self.bucket_elements} is not positive")
        for name in ("overlap", "offload_optimizer"):
            _check(
                self.zero_stage > 0 or not getattr(self, name),
                f"{name} has no effect with zero_stage 0; set it to false, or zero_stage to 2",
            )
        _check(
            self.zero_stage < 3 or not self.compile,
            "compile does not go with zero_stage 3, which releases the weights between steps; set one of them lower",
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
        """The loss scale to use if precision is fp16."""
        return self.loss_scale or LossScale()


def read_execution(path: Path) -> Execution:
    """Read an execution from a JSON file.

    Raises: InputError, with the file's name, for a missing file, unknown or missing keys, values of a wrong type and
    values that exclude each other.
    """
    shipped = ", ".join(sorted(file.name for file in SHIPPED.glob("*.json"))) or "none"
    value = read_json(find_shipped(path), what=f"an execution file for --ds-config (ds_configs/ holds: {shipped})")
    _check_schema(path, value)
    try:
        return from_json(Execution, value, where=str(path))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _check_schema(path: Path, value: Any) -> None:
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

    bf16 where every visible GPU multiplies it natively, fp16 on other GPUs, fp32 without a GPU. cpu_bf16 is never
    chosen: few processors multiply bf16, and on a CPU exact results usually matter more.
    """
    name = "cpu_fp32"
    if torch.cuda.is_available():
        # The weakest GPU decides, so that the ranks of one machine agree.
        weakest = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
        name = "gpu_bf16" if weakest >= NATIVE_BF16 else "titanx_fp16"
    return name, read_execution(SHIPPED / f"{name}.json")


def accumulation(execution: Execution, *, batch_size: int, world_size: int) -> tuple[int, int]:
    """(pairs per rank and forward pass, forward passes per optimiser step), whose product is a rank's pairs per step.

    batch_size: pairs of one optimiser step over all ranks. world_size: number of ranks.

    Raises: InputError if the batch does not split evenly over the ranks, or a rank's pairs over its forward passes.
    """
    per_rank, rest = divmod(batch_size, world_size)
    _check(
        per_rank > 0 and rest == 0,
        f"a batch of {batch_size} pairs does not split evenly over {world_size} ranks; "
        f"use a number of ranks that divides {batch_size}, or a batch size that is a multiple of {world_size}",
    )
    micro = min(execution.micro_batch or per_rank, per_rank)
    divisor = next(number for number in range(micro, 0, -1) if per_rank % number == 0)
    _check(
        micro == divisor,
        f"micro_batch {micro} does not divide the {per_rank} pairs that each of {world_size} ranks takes of a batch of "
        f"{batch_size}; set it to {divisor}",
    )
    return micro, per_rank // micro


def deepspeed_config(execution: Execution, *, batch_size: int, world_size: int, clip_norm: float) -> dict[str, Any]:
    """The dict for deepspeed.initialize; no default of DeepSpeed that would change the result remains.

    batch_size: pairs of one optimiser step over all ranks. clip_norm: largest global gradient norm, 0 for no clipping
    (without the key, DeepSpeed would clip at 1).
    """
    micro, steps = accumulation(execution, batch_size=batch_size, world_size=world_size)
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": steps,
        "gradient_clipping": float(clip_norm),
        "steps_per_print": _NEVER,
        "timers": {"throughput": {"enabled": False}},  # it synchronises with the device twice in each forward pass
        "zero_optimization": _zero_block(execution),
        # torch's fused AdamW runs on the host too, and needs no compiler
        **({"zero_force_ds_cpu_optimizer": False} if execution.offload_optimizer else {}),
        **_precision_block(execution),
    }


def _zero_block(execution: Execution) -> dict[str, Any]:
    if execution.zero_stage == 0:
        return {"stage": 0}
    size = execution.bucket_elements  # DeepSpeed's default of 5e8 takes a gigabyte of a 12 GB card
    return {
        "stage": execution.zero_stage,
        "reduce_bucket_size": size,
        "allgather_bucket_size": size,
        "overlap_comm": execution.overlap,
        "offload_optimizer": {"device": "cpu" if execution.offload_optimizer else "none"},
    }


def _precision_block(execution: Execution) -> dict[str, Any]:
    """torch_autocast with ZeRO off, DeepSpeed's own fp16 or bf16 block with ZeRO on, never both.

    With ZeRO off, the fp16 block divides the gradients by a loss scale that the loss was never multiplied by; with ZeRO
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
    """Arguments of torch.amp.GradScaler for fp16 with ZeRO off; DeepSpeed's dict cannot set them."""
    scale = execution.fp16_scale
    return {"init_scale": 2.0**scale.initial_scale_power, "growth_interval": scale.loss_scale_window}
