"""Two ranks on two cores beside one rank with one thread.

    python tools/bench/scaling.py                    (two idle cores, some five minutes, 8 GB of memory)

One rank, two that share its batch, and two that have each as much to do are trained in turns by the loop of `msp-ds
train`, the sentence stage on synthetic batches, a process and one thread a rank. The bar: 1.7 times the pairs a second.
Pairs a second of CPU time beside it do not mind other programs, but leave out what ranks wait for each other.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.presets import get_preset
from msp_ds.terminal import Table, Terminal, run_tool
from tools.bench.common.figures import choose_device, hardware, spread, spread_cells, warn_if_busy, write_figures
from tools.bench.common.rank_worlds import Turn, World, WorldPlan
from tools.bench.common.step_pool import PAIRS

BAR = 1.7
"""Times the pairs a second of one rank."""
ALONE, SAME_BATCH, SAME_WORK = "one rank", "two ranks, the same batch", "two ranks, as much work each"


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
            "reducing_ratio": statistics.median(turn.reducing / turn.wall for turn in mine),
            "wall_to_cpu": ranks * statistics.median(turn.wall / turn.cpu for turn in mine),
            "updating_ratio": statistics.median(turn.updating / turn.wall for turn in mine),
        }
    return found


def table(found: dict[str, Any], title: str) -> Table:
    """The figures as a table."""
    headers = ("pairs/s", "to one rank", "least to most", "by CPU time at most", "waiting for gradients", "update")
    shown = Table("", *headers, title=title)
    for name, one in found.items():
        shown.add_row(
            name,
            f"{one['pairs_a_second']:.1f}",
            *spread_cells(one["to_one_rank"], 2)[:2],
            f"{one['at_most']:.2f}",
            f"{one['reducing_ratio']:.1%}",
            f"{one['updating_ratio']:.1%}",
        )
    return shown


def main(
    preset: Annotated[str, typer.Option(help="Whose model is trained.")] = "small",
    batch_size: Annotated[
        int | None, typer.Option(min=2, max=PAIRS // 2, help="Pairs in a step of one rank. [the preset's]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="In a turn.")] = 3,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that does not.")] = 5,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where the processor multiplies it.")] = "fp32",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure two ranks beside one."""
    console, found = Terminal(width=150), hardware(choose_device("cpu"))
    size = batch_size or get_preset(preset).schedule["sentence"].batch_size
    worlds = [World(plan) for plan in plans(preset, size, {"precision": precision})]
    turns, facts = measured(worlds, steps=steps, repeat=repeat), worlds[0].facts
    for world in worlds:
        world.end()
    pairs = {name: steps * (2 * size if name == SAME_WORK else size) for name in turns}
    found |= {"preset": preset, "batch_size": size, "steps": steps, **facts, "ranks": compared(turns, pairs)}
    gradients = 4 * facts["parameters"] / 1e6
    title = f"{preset} in {precision}, B = {size} on one rank, {gradients:.0f} MB of gradients, {steps} steps a turn"
    console.print(table(found["ranks"], title))
    best = max(found["ranks"][name]["to_one_rank"]["median"] for name in (SAME_BATCH, SAME_WORK))
    console.print(f"{'reaches' if best >= BAR else 'below'} the bar of {BAR} times one rank; load {found['load']:.1f}")
    warn_if_busy(found["ranks"][ALONE]["wall_to_cpu"], console)
    write_figures(found, out, console)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
