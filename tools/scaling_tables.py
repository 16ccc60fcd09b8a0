"""What the model of many GPUs says, as tables and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from msp_ds.terminal import Table
from tools.scaling_model import Machine, Way, Work, efficiency, state_bytes, step_on

GIB = 2**30
STAGES = (0, 1, 2, 3)
ACCUMULATIONS = (1, 4)
GOOD = 0.9
"""An efficiency with which one may be content."""
WORTH = 1.1
"""Times the speed without ZeRO, from which it is worth a word: ZeRO's own work on the host is not in the model."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is asked of the model."""

    machine: Machine
    work: Work
    micro_batch: int
    """Pairs of a GPU in a forward pass, where the batch grows with the GPUs."""
    batch_size: int
    """Pairs of a step of all GPUs, where it stays."""
    gpus: tuple[int, ...]
    memory_bytes: float
    """Of one GPU."""

    def way(self, stage: int, accumulation: int = 1) -> Way:
        """As ds_configs/ has it: overlap on."""
        return Way(zero_stage=stage, micro_batch=self.micro_batch, accumulation=accumulation)

    def speed(self, gpus: int, way: Way) -> float:
        """Pairs a second."""
        return step_on(gpus, self.machine, self.work, way).pairs_a_second


def growing(cluster: Cluster) -> Iterator[Table]:
    """Pairs a second and efficiency, each GPU with its own micro batch; a table an accumulation."""
    for passes in ACCUMULATIONS:
        shown = Table("GPUs", *(f"ZeRO {stage}" for stage in STAGES))
        shown.title = f"{cluster.micro_batch} pairs a GPU and pass, {passes} passes a step: pairs/s (efficiency)"
        for gpus in cluster.gpus:
            ways = [cluster.way(stage, passes) for stage in STAGES]
            shares = [efficiency(gpus, cluster.machine, cluster.work, way) for way in ways]
            cells = [f"{cluster.speed(gpus, way):,.0f} ({one:.2f})" for way, one in zip(ways, shares, strict=True)]
            shown.add_row(str(gpus), *cells)
        yield shown


def staying(cluster: Cluster) -> Table:
    """The same with one batch that the GPUs share: what the paper's batch size allows."""
    shown = Table("GPUs", "pairs a GPU", *(f"ZeRO {stage}" for stage in STAGES))
    shown.title = f"{cluster.batch_size} pairs a step on all GPUs together: pairs/s (to one GPU)"
    one = replace(cluster, micro_batch=cluster.batch_size)
    alone = one.speed(1, one.way(0))
    for gpus in cluster.gpus:
        share, rest = divmod(cluster.batch_size, gpus)
        if share and not rest:
            mine = replace(cluster, micro_batch=share)
            speeds = [mine.speed(gpus, mine.way(stage)) for stage in STAGES]
            shown.add_row(str(gpus), str(share), *(f"{speed:,.0f} ({speed / alone:.1f} x)" for speed in speeds))
    return shown


def memory(cluster: Cluster) -> Table:
    """GiB of a GPU, and pairs that fit beside the weights."""
    shown = Table("GPUs", *(f"ZeRO {stage}" for stage in STAGES))
    shown.title = "GiB of weights, gradients and moments on a GPU (pairs that fit into a pass beside them)"
    for gpus in cluster.gpus:
        held = [state_bytes(cluster.work.parameters, gpus, stage) for stage in STAGES]
        room = [int(max(0.0, cluster.memory_bytes - one) / cluster.work.pair_bytes) for one in held]
        shown.add_row(str(gpus), *(f"{one / GIB:.2f} ({pairs:,})" for one, pairs in zip(held, room, strict=True)))
    return shown


def advice(cluster: Cluster) -> list[str]:
    """Where ZeRO and accumulation pay, in a few sentences."""
    return [_zero_for_memory(cluster), _zero_for_speed(cluster), _accumulation(cluster)]


def _zero_for_memory(cluster: Cluster) -> str:
    work, room = cluster.work, cluster.memory_bytes / GIB
    for stage in STAGES:
        most = max(step_on(gpus, cluster.machine, work, cluster.way(stage)).bytes_held for gpus in cluster.gpus[1:])
        if most <= cluster.memory_bytes:
            need = f"{most / GIB:.1f} of {room:.0f} GiB"
            if stage == 0:
                return f"Memory: without ZeRO a GPU needs {need}; ZeRO is not needed."
            return f"Memory: ZeRO {stage} is the first to fit, with {need}; smaller micro batches come first."
    return f"Memory: {cluster.micro_batch} pairs a pass do not fit into {room:.0f} GiB in any way; take fewer."


def _zero_for_speed(cluster: Cluster) -> str:
    pays: dict[int, list[tuple[int, float]]] = {}
    for gpus in cluster.gpus[1:]:
        speeds = [cluster.speed(gpus, cluster.way(stage)) for stage in STAGES]
        best = speeds.index(max(speeds))
        if speeds[best] > WORTH * speeds[0]:
            pays.setdefault(best, []).append((gpus, speeds[best] / speeds[0]))
    told = []
    for stage, found in pays.items():
        most = max(gain for _, gain in found)
        told.append(f"ZeRO {stage} on {', '.join(str(gpus) for gpus, _ in found)} GPUs (up to {most:.2f} x)")
    return f"Speed: fastest, and by more than 10 % faster than without ZeRO: {'; '.join(told) or 'none'}."


def _accumulation(cluster: Cluster) -> str:
    most = cluster.gpus[-1]
    for passes in range(1, 1025):
        share = efficiency(most, cluster.machine, cluster.work, cluster.way(0, passes))
        if share >= GOOD:
            if passes == 1:
                return f"Accumulation: not needed; {most} GPUs reach {share:.2f} without it."
            pairs = most * passes * cluster.micro_batch
            return (
                f"Accumulation: {most} GPUs reach {share:.2f} with {passes} passes a step, {pairs:,} pairs in a batch."
            )
    return f"Accumulation: {most} GPUs do not reach {GOOD} with 1024 passes a step."


def as_json(cluster: Cluster) -> dict[str, Any]:
    """Pairs a second and efficiency by accumulation, GPUs and stage; and the advice."""
    rows = [
        {
            "gpus": gpus,
            "zero_stage": stage,
            "accumulation": passes,
            "pairs_a_second": cluster.speed(gpus, cluster.way(stage, passes)),
            "efficiency": efficiency(gpus, cluster.machine, cluster.work, cluster.way(stage, passes)),
        }
        for passes in ACCUMULATIONS
        for gpus in cluster.gpus
        for stage in STAGES
    ]
    return {"rows": rows, "advice": advice(cluster)}
