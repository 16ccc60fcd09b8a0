"""Where the time of a training step goes: the ten most expensive operators of each way, and the memory of its process.

    python tools/bench/profile_step.py                     (a CPU: five minutes of an idle core, 8 GB of memory)
    python tools/bench/profile_step.py --device cuda       (a GPU: the time of its kernels)

The ways are those of tools/bench/step.py, fp32, each in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.config import ModelConfig
from msp_ds.progress import bars
from msp_ds.terminal import Table, Terminal, run_tool
from tools.bench.common.cost import measured
from tools.bench.common.figures import Clock, choose_device, hardware, write_figures
from tools.bench.common.step_pool import PAIRS, Pool
from tools.bench.step import Variant, builders, one_step

WAYS = ("transformers", "ours, LXMERT", "released way", "ours, LXMERT-S")
SHOWN = 10
"""Operators of each way."""


def take_steps(
    way: str, config: ModelConfig, batch_size: int, steps: int, device: str
) -> tuple[list[dict[str, Any]], int]:
    """The operators of `steps` steps after a warm-up, the most expensive first, and the peak memory of a GPU in bytes.

    On a GPU the operators are kernels. For 0 steps there are none, but the memory is that of two.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    place = torch.device(device)
    variant, clock = Variant(subject=builders(config, place)[way](), precision="fp32"), Clock(place)
    draws = Pool(config, batch_size=batch_size).draws(max(steps, 2))
    one_step(variant, draws[0], clock, keep=False)
    if not steps:
        one_step(variant, draws[1], clock, keep=False)
        return [], torch.cuda.max_memory_allocated(place) if place.type == "cuda" else 0
    on_gpu = place.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for draw in draws[:steps]:
            one_step(variant, draw, clock, keep=False)
    events = [
        {
            "operator": event.key,
            "ms": (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000 / steps,
            "calls": event.count / steps,
        }
        for event in profiler.key_averages()
        if not on_gpu or (event.device_type == DeviceType.CUDA and not event.is_user_annotation)
    ]
    return sorted(events, key=lambda event: -event["ms"]), 0


def operators_table(way: str, operators: list[dict[str, Any]]) -> Table:
    """The most expensive operators of a way, and all others in one line."""
    total, rest = sum(event["ms"] for event in operators), operators[SHOWN:]
    others = {key: sum(event[key] for event in rest) for key in ("ms", "calls")} | {"operator": f"{len(rest)} others"}
    table = Table(f"{way}: operator", "ms a step", "fraction", "calls a step")
    for event in [*operators[:SHOWN], others]:
        table.add_row(event["operator"], f"{event['ms']:.0f}", f"{event['ms'] / total:.1%}", f"{event['calls']:.0f}")
    return table


def memory_table(peaks: dict[str, int]) -> Table:
    """Peak memory of the processes, weights and optimiser included, on the GPU, or on the host with all imports."""
    table = Table("peak memory", "GiB", "of the released way's")
    for way, peak in peaks.items():
        table.add_row(way, f"{peak / 2**30:.2f}", f"{peak / peaks['released way']:.2f}")
    return table


def main(
    batch_size: Annotated[int, typer.Option(min=1, max=PAIRS, help="Pairs in a step.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Steps that count, after one that does not.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Show what a training step is made of, beside its peers."""
    place = choose_device(device)
    console = Terminal(width=120)
    found: dict[str, Any] = hardware(place) | {"batch_size": batch_size, "ways": {}}
    with bars("ways", len(WAYS)) as progress:
        for way in WAYS:
            (operators, _), _ = measured(take_steps, way, ModelConfig(), batch_size, steps, device)
            # The profiler's notes are memory too.
            (_, on_gpu), cost = measured(take_steps, way, ModelConfig(), batch_size, 0, device)
            found["ways"][way] = {"operators": operators, "peak_bytes": on_gpu or cost.peak_bytes}
            progress.advance()
    for way, result in found["ways"].items():
        console.print(operators_table(way, result["operators"]))
    console.print(memory_table({way: result["peak_bytes"] for way, result in found["ways"].items()}))
    write_figures(found, out, console)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
