"""The state of an engine by the names of its weights, independent of the number of ranks and the ZeRO stage.

DeepSpeed's own checkpoint files fit only the layout that wrote them. Here weights and Adam's moments are gathered on
rank 0 as one fp32 tensor per parameter, and whoever loads them partitions them again. Nothing is rounded, so a run that
is resumed in the same layout continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from msp_ds.training.distributed.runtime import Runtime

if TYPE_CHECKING:  # reading a checkpoint must not import DeepSpeed
    from msp_ds.training.engine.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's moments of every element; beside them it keeps its number of steps, `step`."""


@dataclass(frozen=True, kw_only=True)
class EngineState:
    """A copy of the state on the CPU: training may continue while it is written."""

    weights: dict[str, Tensor]
    """fp32, by the names of the module's state dict; tied weights under each of their names."""
    moments: Mapping[str, Tensor]
    """fp32: exp_avg.NAME, exp_avg_sq.NAME and step.NAME (a scalar) of the parameters that have had a gradient."""
    loss_scale: Mapping[str, float] | None
    """scale, good_steps since the last overflow, hysteresis left; None where nothing is scaled."""


@dataclass(frozen=True)
class PartitionSlice:
    """Where a parameter lies in ZeRO's partitions, stacked as [ranks, size]."""

    parameter: nn.Parameter
    shape: torch.Size
    start: int
    width: int
    """ZeRO 3: elements in every row from `start`. 0 for ZeRO 1 and 2: one range of the flattened partitions."""

    def read(self, stacked: Tensor) -> Tensor:
        """A copy of the parameter's values."""
        if self.width:
            scattered = stacked[:, self.start : self.start + self.width].flatten()
            return scattered[: self.shape.numel()].view(self.shape).clone()
        return stacked.flatten()[self.start : self.start + self.shape.numel()].view(self.shape).clone()

    def write(self, stacked: Tensor, values: Tensor) -> None:
        """Write values of the parameter's shape."""
        if self.width:
            padded = stacked.new_zeros(stacked.shape[0] * self.width)  # the last rank's slice may end in padding
            padded[: values.numel()] = values.flatten()
            stacked[:, self.start : self.start + self.width] = padded.view(-1, self.width)
        else:
            stacked.view(-1)[self.start : self.start + values.numel()] = values.flatten()


@dataclass(frozen=True)
class Partition:
    """This rank's partition of a group of parameters: what ZeRO hands to the optimiser instead of them."""

    flat: Tensor
    """fp32 [size], the same size on every rank."""
    slices: tuple[PartitionSlice, ...]


def partitions(engine: Engine) -> list[Partition]:
    """The partitions that ZeRO has made; none at stage 0."""
    zero = engine.engine.optimizer
    if engine.execution.zero_stage == 0:
        return []
    if engine.execution.zero_stage == 3:
        places = zero.grad_position  # (group, start, width) of each parameter
        return [
            Partition(flat, tuple(PartitionSlice(p, p.ds_shape, *places[zero.get_param_id(p)][1:]) for p in group))
            for flat, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        ]
    columns = (zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups, zero.round_robin_bit16_offsets)
    return [
        Partition(flat, tuple(PartitionSlice(one, one.shape, at, 0) for one, at in zip(group, starts, strict=True)))
        for flat, group, starts in zip(*columns, strict=True)
    ]


@torch.no_grad()
def gather_state(engine: Engine, runtime: Runtime) -> EngineState | None:
    """A copy of the whole state on rank 0; None on the others. Every rank must call it."""
    all_partitions = partitions(engine)
    if not all_partitions:
        return _replicated_state(engine) if runtime.is_first else None
    names = _names(engine)
    masters: dict[nn.Parameter, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for partition in all_partitions:
        state = engine.engine.optimizer.optimizer.state.get(partition.flat, {})
        for key, flat in {"": partition.flat, **{key: state[key] for key in MOMENTS if state}}.items():
            stacked = _stack_on_rank_zero(flat, runtime)
            for one in partition.slices if stacked is not None else ():
                values = one.read(stacked)  # type: ignore[arg-type]
                if key:
                    moments[f"{key}.{names[one.parameter]}"] = values
                else:
                    masters[one.parameter] = values
        if state:
            moments |= {f"step.{names[one.parameter]}": _copied(state["step"]) for one in partition.slices}
    if not runtime.is_first:
        return None
    live = engine.engine.module.state_dict(keep_vars=True)  # 16-bit, and with ZeRO 3 not even complete
    weights = {name: _copied(masters.get(tensor, tensor)) for name, tensor in live.items()}
    return EngineState(weights=weights, moments=moments, loss_scale=_loss_scale(engine))


def _replicated_state(engine: Engine) -> EngineState:
    """The state at ZeRO stage 0, where each rank has all of it."""
    state = engine.engine.optimizer.state
    moments = {
        f"{key}.{name}": _copied(state[parameter][key])
        for parameter, name in _names(engine).items()
        if parameter in state
        for key in (*MOMENTS, "step")
    }
    weights = {name: _copied(tensor) for name, tensor in engine.engine.module.state_dict().items()}
    return EngineState(weights=weights, moments=moments, loss_scale=_loss_scale(engine))


@torch.no_grad()
def load_state(state: EngineState, engine: Engine, runtime: Runtime) -> None:
    """Load moments, loss scale and fp32 master weights into an engine whose module holds the weights already."""
    _load_loss_scale(state.loss_scale, engine)
    all_partitions, names = partitions(engine), _names(engine)
    if not all_partitions:
        for parameter, name in names.items():
            if f"step.{name}" in state.moments:
                values = {key: state.moments[f"{key}.{name}"] for key in (*MOMENTS, "step")}
                engine.engine.optimizer.state[parameter] = _copied_to(parameter, values)
    for partition in all_partitions:
        # The module holds 16-bit weights, and ZeRO made its fp32 masters from those: they have to be made exact.
        partition.flat.copy_(_own_row(partition, runtime, state.weights, names))
        steps = [state.moments.get(f"step.{names[one.parameter]}") for one in partition.slices]
        known = [step for step in steps if step is not None]
        if known:
            values = {key: _own_row(partition, runtime, state.moments, names, prefix=f"{key}.") for key in MOMENTS}
            # One number of steps for all: in a mixed stage at ZeRO 0, parameters may have had different numbers.
            values["step"] = torch.stack(known).amax()
            engine.engine.optimizer.optimizer.state[partition.flat] = _copied_to(partition.flat, values)


def _own_row(
    partition: Partition,
    runtime: Runtime,
    values: Mapping[str, Tensor],
    names: Mapping[nn.Parameter, str],
    *,
    prefix: str = "",
) -> Tensor:
    """This rank's row of the stacked partitions; zeros, as ZeRO starts from, where a parameter has no value yet."""
    stacked = torch.zeros(runtime.world_size, partition.flat.numel())
    for one in partition.slices:
        name = prefix + names[one.parameter]
        if name in values:
            one.write(stacked, values[name])
    return stacked[runtime.rank].clone()


def _names(engine: Engine) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in engine.engine.module.named_parameters()}


def _stack_on_rank_zero(flat: Tensor, runtime: Runtime) -> Tensor | None:
    """The partitions of all ranks as [ranks, size], on the CPU of rank 0. Every rank must call it."""
    flat = flat.detach().to(runtime.device)  # NCCL reaches no memory of the host
    if runtime.world_size == 1:
        return flat.cpu()[None]
    received = [torch.empty_like(flat) for _ in range(runtime.world_size)] if runtime.is_first else None
    dist.gather(flat, received)
    return torch.stack(received).cpu() if received else None


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _copied_to(like: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the device of `like`, where the fused AdamW wants its number of steps too."""
    return {key: tensor.to(like.device, copy=True) for key, tensor in values.items()}


def _loss_scale(engine: Engine) -> dict[str, float] | None:
    """The state of the loss scale, in the same keys with ZeRO on and off."""
    if engine.scaler is not None:
        saved = engine.scaler.state_dict()
        return {"scale": saved["scale"], "good_steps": saved["_growth_tracker"]}
    scaler = getattr(engine.engine.optimizer, "loss_scaler", None)
    if engine.execution.precision != "fp16" or scaler is None:
        return None
    good_steps = scaler.cur_iter - scaler.last_overflow_iter - 1
    return {"scale": scaler.cur_scale, "good_steps": good_steps, "hysteresis": scaler.cur_hysteresis}


def _load_loss_scale(saved: Mapping[str, float] | None, engine: Engine) -> None:
    if saved is None or engine.execution.precision != "fp16":  # nothing is scaled, or the scale starts afresh
        return
    if engine.scaler is not None:
        state = engine.scaler.state_dict()
        good_steps = int(saved["good_steps"]) % state["growth_interval"]
        engine.scaler.load_state_dict({**state, "scale": saved["scale"], "_growth_tracker": good_steps})
        return
    scaler = engine.engine.optimizer.loss_scaler
    scaler.cur_scale, scaler.last_overflow_iter = saved["scale"], -1
    scaler.cur_iter = int(saved["good_steps"])
    scaler.cur_hysteresis = int(saved.get("hysteresis", scaler.delayed_shift))
