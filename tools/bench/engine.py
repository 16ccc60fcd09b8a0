"""What the engine costs: a step of the training loop with DeepSpeed beside a plain torch loop of the same model.

    python tools/bench/engine.py                       (the small preset on a CPU; some four minutes of an idle core)
    python tools/bench/engine.py --preset tiny         (ten seconds; here the same milliseconds are a larger part)

Both train the sentence stage on the same synthetic batches in one process, in turns, every other step in reverse, on
one thread: the loop as `msp-ds train` runs it (DeepSpeed, the guards, metrics, a report each tenth step; nothing is
saved), and forward, backward, clipping, AdamW and the schedule as anybody would write them. A round is ten steps of
each with one report in it; the bar is 1.05 times the plain step.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.loading.order import Order
from msp_ds.presets import get_preset
from msp_ds.terminal import Table, Terminal, run_tool
from msp_ds.training.distributed.runtime import start_runtime
from msp_ds.training.engine.execution import Execution
from tools.bench.common import figures
from tools.bench.common.step_pool import PAIRS, Pool, a_context

if TYPE_CHECKING:
    from msp_ds.training.batch_loader import StepBatch
    from tools.bench.common.replayed_loop import Stand

STEPS = 10
"""Steps of a round; the loop reports as often."""
BAR = 1.05
"""Times the plain step that a step of the loop may take."""


@dataclass(kw_only=True)
class Turns:
    """Steps of the loop and plain ones, in turns: a plain step runs before or after the loop takes a batch."""

    step_batches: list[StepBatch]
    plain: Callable[[StepBatch], Any]
    clock: figures.Clock
    loop_steps: list[figures.Times] = field(default_factory=list)
    plain_steps: list[figures.Times] = field(default_factory=list)

    def __iter__(self) -> Iterator[StepBatch]:
        for number, step_batch in enumerate(self.step_batches):
            if number % 2:
                self._plain(step_batch)
            began = self.clock.times()
            yield step_batch
            self.loop_steps.append(self.clock.times() - began)
            if not number % 2:
                self._plain(step_batch)

    def _plain(self, step_batch: StepBatch) -> None:
        began = self.clock.times()
        self.plain(step_batch)
        self.plain_steps.append(self.clock.times() - began)


def rounds(steps: list[figures.Times]) -> list[figures.Times]:
    """Sums of STEPS steps each, the first such round left out: it warms up."""
    starts = range(STEPS, len(steps) - STEPS + 1, STEPS)
    return [sum(steps[start : start + STEPS], figures.Times()) for start in starts]


def compared(turns: Turns) -> dict[str, Any]:
    """Ratios of the loop to the plain step by round, and the seconds of a step."""
    loop, plain = rounds(turns.loop_steps), rounds(turns.plain_steps)
    single = turns.loop_steps[STEPS:], turns.plain_steps[STEPS:]
    return {
        "of_rounds": figures.spread([one.seconds for one in loop], [one.seconds for one in plain]),
        "of_rounds_by_the_wall": figures.spread([one.wall for one in loop], [one.wall for one in plain]),
        "of_single_steps": figures.spread(*([one.seconds for one in steps] for steps in single)),
        "loop_seconds": statistics.median(one.seconds for one in loop) / STEPS,
        "plain_seconds": statistics.median(one.seconds for one in plain) / STEPS,
        "wall_to_cpu": sum(one.wall for one in plain) / sum(one.seconds for one in plain),
    }


def measured(stand: Stand) -> dict[str, Any]:
    """Train both ways in turns and return the comparison."""
    from tools.bench.common.replayed_loop import PlainStep, run_loop

    model = stand.preset.model
    context, pool = a_context(model), Pool(model, batch_size=stand.batch_size)
    kept = [stand.step_batch(0, pool.batch(pairs), context) for pairs in pool.choices(STEPS)]
    steps = [dataclasses.replace(kept[step % STEPS], step=step) for step in range(stand.num_steps)]
    plain, clock = PlainStep(stand, stand.model(context)), figures.Clock(stand.runtime.device)
    turns = Turns(step_batches=steps, plain=plain, clock=clock)
    order = Order([torch.arange(PAIRS)], seed=0, batch_size=stand.batch_size)
    loop = stand.loop(stand.model(context), iter(turns), order)
    run_loop(loop)
    return {
        **compared(turns),
        "parameters": sum(one.numel() for one in loop.engine.engine.module.parameters()),
        "text_slots_a_pair": pool.mean_slots(),
    }


def table(found: dict[str, Any]) -> Table:
    """The ratios as a table."""
    shown = Table("the loop's step / the plain step", "median of rounds", "least to most", "of all rounds")
    for name, key in (("time", "of_rounds"), ("wall", "of_rounds_by_the_wall"), ("single steps", "of_single_steps")):
        shown.add_row(name, *figures.spread_cells(found[key], 3))
    shown.title = (
        f"{found['preset']}, {found['parameters'] / 1e6:.1f} M parameters, B = {found['batch_size']}, "
        f"{found['loop_seconds'] * 1e3:.0f} ms and {found['plain_seconds'] * 1e3:.0f} ms a step"
    )
    return shown


def main(
    preset: Annotated[str, typer.Option(help="Whose model is trained.")] = "small",
    batch_size: Annotated[int, typer.Option(min=1, max=PAIRS, help="Pairs in a step.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds of ten steps that count, after one that does not.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time the training loop beside a plain one."""
    figures.choose_device(device)
    chosen = get_preset(preset)
    runtime = start_runtime(os.environ)  # tells DeepSpeed the device, which the next line imports
    from tools.bench.common.replayed_loop import Stand

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(
            preset=chosen,
            batch_size=batch_size,
            num_steps=(repeat + 1) * STEPS,
            runtime=runtime,
            execution=Execution(precision="bf16" if device == "cuda" else "fp32"),
            folder=Path(folder),
        )
        found = figures.hardware(runtime.device) | {"preset": preset, "batch_size": batch_size, "repeat": repeat}
        found |= measured(stand)
    torch.distributed.destroy_process_group()
    console = Terminal(width=140)
    console.print(table(found))
    ratio = found["of_rounds"]["median"]
    console.print(f"{'within' if ratio <= BAR else 'above'} the bar of {BAR} times the plain step")
    figures.warn_if_busy(found["wall_to_cpu"], console)
    figures.write_figures(found, out, console)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
