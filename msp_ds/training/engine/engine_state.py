"""What an engine has learnt, by the names of its weights: out of any number of ranks and ZeRO stage, into any other.

DeepSpeed's own files fit the layout that wrote them. Here weights and Adam's moments are gathered on the first rank as
one fp32 tensor a parameter, and laid out again by whoever loads them. Nothing is rounded on the way, so the same layout
goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from msp_ds.training.distributed.runtime import Runtime

if TYPE_CHECKING:  # names of checkpoint files must not need DeepSpeed
    from msp_ds.training.engine.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of every element; beside them its count of steps, `step`."""


@dataclass(frozen=True, kw_only=True)
class EngineState:
    """All of it, in memory of its own on the CPU: training may go on while it is written."""

    weights: dict[str, Tensor]
    """fp32, by the names of the module's state dict; tied weights under each of their names."""
    moments: Mapping[str, Tensor]
    """fp32: exp_avg.NAME, exp_avg_sq.NAME and step.NAME (a scalar); without those that have had no gradient yet."""
    loss_scale: Mapping[str, float] | None
    """scale, good_steps since the last overflow, hysteresis left; None where nothing is scaled."""


@dataclass(frozen=True)
class PartitionSlice:
    """Where a parameter lies in ZeRO's partitions, put one below the other as [ranks, size]."""

    parameter: nn.Parameter
    shape: torch.Size
    start: int
    width: int
    """Elements in every row from `start`, of ZeRO 3; 0: one stretch of the rows put end to end, of ZeRO 1 and 2."""

    def read(self, rows: Tensor) -> Tensor:
        """The parameter's values, in memory of their own."""
        if self.width:
            scattered = rows[:, self.start : self.start + self.width].flatten()
            return scattered[: self.shape.numel()].view(self.shape).clone()
        return rows.flatten()[self.start : self.start + self.shape.numel()].view(self.shape).clone()

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Puts values of the parameter's shape there."""
        if self.width:
            padded = rows.new_zeros(rows.shape[0] * self.width)  # the last rank's part may be longer than what is left
            padded[: values.numel()] = values.flatten()
            rows[:, self.start : self.start + self.width] = padded.view(-1, self.width)
        else:
            rows.view(-1)[self.start : self.start + values.numel()] = values.flatten()


@dataclass(frozen=True)
class Partition:
    """This rank's part of a group of parameters: what ZeRO gives to the optimiser in their place."""

    flat: Tensor
    """fp32 [size], equally long on every rank."""
    places: tuple[PartitionSlice, ...]


def partitions(engine: Engine) -> list[Partition]:
    """How ZeRO has laid the weights out; empty where it is off."""
    zero = engine.engine.optimizer
    if engine.execution.zero_stage == 0:
        return []
    if engine.execution.zero_stage == 3:
        return [
            Partition(flat, tuple(_scattered(zero, parameter) for parameter in group))
            for flat, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        ]
    groups = zip(
        *(zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups, zero.round_robin_bit16_offsets),
        strict=True,
    )
    return [
        Partition(
            flat, tuple(PartitionSlice(one, one.shape, start, 0) for one, start in zip(group, starts, strict=True))
        )
        for flat, group, starts in groups
    ]


def _scattered(zero: Any, parameter: Any) -> PartitionSlice:
    _, start, width = zero.grad_position[zero.get_param_id(parameter)]
    return PartitionSlice(parameter, parameter.ds_shape, start, width)


@torch.no_grad()
def take_state(engine: Engine, runtime: Runtime) -> EngineState | None:
    """A copy of everything, on the first rank; None on the others. Every rank must call it."""
    parts = partitions(engine)
    if not parts:
        return _of_replica(engine) if runtime.is_first else None
    names = _names(engine)
    masters: dict[nn.Parameter, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for part in parts:
        state = engine.engine.optimizer.optimizer.state.get(part.flat, {})
        for key, mine in {"": part.flat, **{key: state[key] for key in MOMENTS if state}}.items():
            rows = _gather(mine, runtime)
            for place in part.places if rows is not None else ():
                values = place.read(rows)  # type: ignore[arg-type]
                if key:
                    moments[f"{key}.{names[place.parameter]}"] = values
                else:
                    masters[place.parameter] = values
        if state:
            moments |= {f"step.{names[place.parameter]}": _copied(state["step"]) for place in part.places}
    if not runtime.is_first:
        return None
    live = engine.engine.module.state_dict(keep_vars=True)  # in 16 bits, or with ZeRO 3 not even here
    weights = {name: _copied(masters.get(tensor, tensor)) for name, tensor in live.items()}
    return EngineState(weights=weights, moments=moments, loss_scale=_loss_scale(engine))


def _of_replica(engine: Engine) -> EngineState:
    """The state where each rank has all of it."""
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
def put_state(state: EngineState, engine: Engine, runtime: Runtime) -> None:
    """Lays the state out for this engine, whose module was filled with the weights before DeepSpeed took it over."""
    _put_loss_scale(state.loss_scale, engine)
    parts = partitions(engine)
    if not parts:
        for parameter, name in _names(engine).items():
            if f"step.{name}" in state.moments:
                values = {key: state.moments[f"{key}.{name}"] for key in (*MOMENTS, "step")}
                engine.engine.optimizer.state[parameter] = _on(parameter, values)
        return
    names = _names(engine)
    for part in parts:
        # 16-bit weights are in the module already; the fp32 copies were made from those and have to be made exact.
        part.flat.copy_(_row(part, runtime, {place: state.weights[names[place.parameter]] for place in part.places}))
        steps = [state.moments.get(f"step.{names[place.parameter]}") for place in part.places]
        known = [step for step in steps if step is not None]
        if known:
            values = {key: _row(part, runtime, dict(_moments(state, part, names, key))) for key in MOMENTS}
            # One count for all: of a mixed stage with ZeRO off, parameters may have had fewer gradients than others.
            values["step"] = torch.stack(known).amax()
            engine.engine.optimizer.optimizer.state[part.flat] = _on(part.flat, values)


def _moments(
    state: EngineState, part: Partition, names: Mapping[nn.Parameter, str], key: str
) -> Iterator[tuple[PartitionSlice, Tensor]]:
    for place in part.places:
        name = f"{key}.{names[place.parameter]}"
        if name in state.moments:  # else it has had no gradient, and zero is what ZeRO starts from
            yield place, state.moments[name]


def _row(part: Partition, runtime: Runtime, values: Mapping[PartitionSlice, Tensor]) -> Tensor:
    """This rank's part of parameters' values, as long as its partition."""
    rows = torch.zeros(runtime.world_size, part.flat.numel())
    for place, tensor in values.items():
        place.write(rows, tensor)
    return rows[runtime.rank].clone()


def _names(engine: Engine) -> dict[nn.Parameter, str]:
    """Each parameter's first name."""
    return {parameter: name for name, parameter in engine.engine.module.named_parameters()}


def _gather(mine: Tensor, runtime: Runtime) -> Tensor | None:
    """What every rank has, as [ranks, size] on the CPU of the first rank. Every rank must call it."""
    mine = mine.detach().to(runtime.device)  # the network's library may reach no other memory
    if runtime.world_size == 1:
        return mine.cpu()[None]
    rows = [torch.empty_like(mine) for _ in range(runtime.world_size)] if runtime.is_first else None
    dist.gather(mine, rows)
    return torch.stack(rows).cpu() if rows else None


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _on(like: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of fp32 values on the device of `like`, where the fused AdamW wants its count of steps too."""
    return {key: tensor.to(like.device, copy=True) for key, tensor in values.items()}


def _loss_scale(engine: Engine) -> dict[str, float] | None:
    """What fp16 has found out about the scale, in the same words with ZeRO on and off."""
    if engine.scaler is not None:
        saved = engine.scaler.state_dict()
        return {"scale": saved["scale"], "good_steps": saved["_growth_tracker"]}
    scaler = getattr(engine.engine.optimizer, "loss_scaler", None)
    if engine.execution.precision != "fp16" or scaler is None:
        return None
    good_steps = scaler.cur_iter - scaler.last_overflow_iter - 1
    return {"scale": scaler.cur_scale, "good_steps": good_steps, "hysteresis": scaler.cur_hysteresis}


def _put_loss_scale(found: Mapping[str, float] | None, engine: Engine) -> None:
    if found is None or engine.execution.precision != "fp16":  # there is none then, or it has to be found out again
        return
    if engine.scaler is not None:
        saved = engine.scaler.state_dict()
        good_steps = int(found["good_steps"]) % saved["growth_interval"]
        engine.scaler.load_state_dict({**saved, "scale": found["scale"], "_growth_tracker": good_steps})
        return
    scaler = engine.engine.optimizer.loss_scaler
    scaler.cur_scale, scaler.last_overflow_iter = found["scale"], -1
    scaler.cur_iter = int(found["good_steps"])
    scaler.cur_hysteresis = int(found.get("hysteresis", scaler.delayed_shift))
