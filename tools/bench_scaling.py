"""Two ranks on two cores beside one rank with one thread; and a model of many GPUs.

    python tools/bench_scaling.py                    (two idle cores, some five minutes, 8 GB of memory)
    python tools/bench_scaling.py --model-nodes      (the same, then GPUs by the dozen as slow as one of these cores)
    python tools/bench_scaling.py --model-nodes --step step.json --card h100
                                                     (seconds: GPUs as bench_step.py --device cuda --out step.json saw)

One rank, two that share its batch, and two that have each as much to do are trained in turns by the loop of `msp-ds
train`, the sentence stage on synthetic batches, a process and one thread a rank. The bar: 1.7 times the pairs a second.
Pairs a second of CPU time beside it do not mind other programs, but leave out what ranks wait for each other.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from msp_ds.curriculum import STAGES
from msp_ds.errors import InputError
from msp_ds.presets import Preset, get_preset
from msp_ds.terminal import Table, Terminal, one_line_errors, run_tool
from msp_ds.training.memory.cards import find_card
from tools.bench_figures import BUSY, choose_device, spread, write_figures
from tools.bench_hardware import hardware
from tools.rank_worlds import Turn, World, WorldPlan
from tools.scaling_model import Machine, Work
from tools.scaling_tables import GIB, Cluster, advice, as_json, growing, memory, staying

BAR = 1.7
"""Times the pairs a second of one rank."""
ALONE, SAME_BATCH, SAME_WORK = "one rank", "two ranks, the same batch", "two ranks, as much work each"
MEASURED = ("ours, LXMERT-S bf16", "ours, LXMERT-S fp32")
"""Variants of bench_step.py, the first that was measured."""
TEXT_SLOTS = 16
"""Of a sentence, as they are padded on average."""


def plans(preset: str, batch_size: int, settings: dict[str, Any]) -> list[WorldPlan]:
    """The three worlds."""
    sizes = ((ALONE, 1, batch_size), (SAME_BATCH, 2, batch_size), (SAME_WORK, 2, 2 * batch_size))
    return [
        WorldPlan(name=name, ranks=ranks, batch_size=size, preset=preset, settings=settings)
        for name, ranks, size in sizes
    ]


def measured(worlds: list[World], *, steps: int, repeat: int) -> dict[str, list[Turn]]:
    """`repeat` turns of each after one to warm up, every other round in reverse."""
    turns: dict[str, list[Turn]] = {world.plan.name: [] for world in worlds}
    for number in range(repeat + 1):
        for world in worlds[:: -1 if number % 2 else 1]:
            turn = world.train(steps)
            if number:
                turns[world.plan.name].append(turn)
    return turns


def compared(turns: dict[str, list[Turn]], pairs: dict[str, int]) -> dict[str, Any]:
    """By world: pairs a second by the wall and by the CPU, and both to one rank. pairs: of each turn."""
    found: dict[str, Any] = {}
    for name, mine in turns.items():
        by_wall = [pairs[name] / turn.wall for turn in mine]
        by_cpu = [pairs[name] / turn.cpu for turn in mine]
        ranks = 1 if name == ALONE else 2
        found[name] = {
            "pairs_a_second": statistics.median(by_wall),
            "pairs_a_cpu_second": statistics.median(by_cpu),
            "to_one_rank": spread(by_wall, [pairs[ALONE] / turn.wall for turn in turns[ALONE]]),
            # if every core were free all the time
            "at_most": ranks * spread(by_cpu, [pairs[ALONE] / turn.cpu for turn in turns[ALONE]])["median"],
            "reducing_share": statistics.median(turn.reducing / turn.wall for turn in mine),
            "wall_to_cpu": ranks * statistics.median(turn.wall / turn.cpu for turn in mine),
            "updating_share": statistics.median(turn.updating / turn.wall for turn in mine),
        }
    return found


def table(found: dict[str, Any], title: str) -> Table:
    """What was measured, to look at."""
    shown = Table(
        "", "pairs/s", "to one rank", "least to most", "by CPU time at most", "waiting for gradients", "update"
    )
    for name, one in found.items():
        times = one["to_one_rank"]
        shown.add_row(
            name,
            f"{one['pairs_a_second']:.1f}",
            f"{times['median']:.2f}",
            f"{times['least']:.2f} to {times['most']:.2f}",
            f"{one['at_most']:.2f}",
            f"{one['reducing_share']:.1%}",
            f"{one['updating_share']:.1%}",
        )
    shown.title = title
    return shown


def work_of(preset: Preset, *, seconds_a_pair: float, update_seconds: float, half: bool) -> Work:
    """What a GPU has to do: the times as measured, sizes by the shapes."""
    from msp_ds.training.memory.footprint import Workload, count_weights, saved_bytes

    tasks = next(part for part in STAGES if part.name == "sentence").tasks
    load = Workload(model=preset.model, tasks=tasks, options=preset.tasks, num_tokens=TEXT_SLOTS)
    return Work(
        seconds_a_pair=seconds_a_pair,
        update_seconds=update_seconds,
        parameters=count_weights(load),
        pair_bytes=saved_bytes(load, half=half),
    )


def work_of_step(path: Path) -> tuple[Work, int]:
    """What bench_step.py measured, and in batches of how many pairs. Raises InputError for another file."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        name = next(name for name in MEASURED if name in said["variants"])
        one, size = said["variants"][name], int(said["batch_size"])
        seconds = (one["forward"] + one["backward"]) / size
        update = float(one["update"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise InputError(f"{path} is none of bench_step.py; make it with: bench_step.py --out {path}") from None
    half = name.endswith("bf16")
    return work_of(get_preset("paper"), seconds_a_pair=seconds, update_seconds=update, half=half), size


def work_of_turns(preset: Preset, turns: list[Turn], pairs: int) -> Work:
    """What one rank alone took here."""
    seconds = statistics.median((turn.wall - turn.updating) / pairs for turn in turns)
    update = statistics.median(turn.updating / turn.steps for turn in turns)
    return work_of(preset, seconds_a_pair=seconds, update_seconds=update, half=False)


def main(  # noqa: PLR0913, one parameter a flag
    preset: Annotated[str, typer.Option(help="Whose model is trained.")] = "small",
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pairs in a step of one rank. [the preset's]")] = None,
    steps: Annotated[int, typer.Option(min=1, help="In a turn.")] = 3,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that does not.")] = 5,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where the processor multiplies it.")] = "fp32",
    model_nodes: Annotated[bool, typer.Option("--model-nodes", help="Show what many GPUs would reach.")] = False,
    step: Annotated[Path | None, typer.Option(help="JSON of bench_step.py: model those GPUs, measure nothing.")] = None,
    card: Annotated[str, typer.Option(help="Whose memory the model has: titanx, a100, h100, 12gb ...")] = "titanx",
    gpus_a_node: Annotated[int, typer.Option(min=1, help="GPUs of a machine.")] = 8,
    inside: Annotated[float, typer.Option(min=0.001, help="GB/s between two GPUs of a machine.")] = 200.0,
    between: Annotated[float, typer.Option(min=0.001, help="GB/s between two machines.")] = 12.5,
    hop: Annotated[float, typer.Option(min=0.0, help="Microseconds that a message takes at least.")] = 20.0,
    most_gpus: Annotated[int, typer.Option(min=2, help="GPUs up to which the model goes.")] = 64,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure two ranks beside one; model many."""
    choose_device("cpu")
    console, found = Terminal(width=150), hardware(torch.device("cpu"))
    with one_line_errors(debug=False):
        chosen, memory_gib = get_preset(preset), find_card(card).memory_gib
        machine = Machine(gpus_a_node=gpus_a_node, inside=inside * 1e9, between=between * 1e9, hop=hop * 1e-6)
        if min(inside, between) <= 0 or hop < 0:
            raise InputError("--inside and --between are GB a second above 0, --hop microseconds from 0 on")
        size = batch_size or chosen.schedule["sentence"].batch_size
        work = None
        if step is not None:
            (work, size), model_nodes = work_of_step(step), True
    if work is None:
        turns, facts = _train(plans(preset, size, {"precision": precision}), steps=steps, repeat=repeat)
        pairs = {name: steps * (2 * size if name == SAME_WORK else size) for name in turns}
        found |= {"preset": preset, "batch_size": size, "steps": steps, **facts, "ranks": compared(turns, pairs)}
        gradients = 4 * facts["parameters"] / 1e6
        title = (
            f"{preset} in {precision}, B = {size} on one rank, {gradients:.0f} MB of gradients, {steps} steps a turn"
        )
        console.print(table(found["ranks"], title))
        best = max(found["ranks"][name]["to_one_rank"]["median"] for name in (SAME_BATCH, SAME_WORK))
        console.print(
            f"{'reaches' if best >= BAR else 'below'} the bar of {BAR} times one rank; load {found['load']:.1f}"
        )
        if found["ranks"][ALONE]["wall_to_cpu"] > BUSY:
            busy = found["ranks"][ALONE]["wall_to_cpu"]
            console.print(f"other programs kept this machine busy (wall/CPU {busy:.2f}): run it again")
        work = work_of_turns(chosen, turns[ALONE], pairs[ALONE])
    if model_nodes:
        gpus = tuple(2**power for power in range(most_gpus.bit_length()))
        cluster = Cluster(
            machine=machine, work=work, micro_batch=size, batch_size=size, gpus=gpus, memory_bytes=memory_gib * GIB
        )
        found["model"] = {"work": dataclasses.asdict(work), **dataclasses.asdict(machine), **as_json(cluster)}
        _show_model(cluster, console)
    write_figures(found, out, console)


def _train(these: list[WorldPlan], *, steps: int, repeat: int) -> tuple[dict[str, list[Turn]], dict[str, float]]:
    worlds = [World(plan) for plan in these]
    turns = measured(worlds, steps=steps, repeat=repeat)
    for world in worlds:
        world.end()
    return turns, worlds[0].facts


def _show_model(cluster: Cluster, console: Terminal) -> None:
    machine, work = cluster.machine, cluster.work
    console.print(
        f"A model, not a measurement: {work.seconds_a_pair * 1e3:.3g} ms a pair, {work.update_seconds * 1e3:.3g} ms an "
        f"update, {work.parameters / 1e6:.1f} M parameters; {machine.gpus_a_node} GPUs a machine, "
        f"{machine.inside / 1e9:g} GB/s inside, {machine.between / 1e9:g} GB/s between, {machine.hop * 1e6:g} us a hop"
    )
    for shown in (*growing(cluster), staying(cluster), memory(cluster)):
        console.print(shown)
    for line in advice(cluster):
        console.print(line)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
