"""What the engine costs: a step of the training loop with DeepSpeed beside a plain torch loop of the same model.

    python tools/bench/engine.py                       (the small preset on a CPU; some four minutes of an idle core)
    python tools/bench/engine.py --preset tiny         (ten seconds; here the same milliseconds are a larger share)

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
from msp_ds.errors import InputError
from msp_ds.presets import get_preset
from msp_ds.terminal import Table, Terminal, one_line_errors, run_tool
from msp_ds.training.distributed.runtime import start_runtime
from msp_ds.training.engine.execution import Execution
from tools.bench.common.figures import BUSY, Clock, Taken, choose_device, hardware, spread, taken, write_figures
from tools.bench.common.step_pool import PAIRS, Pool, a_context

if TYPE_CHECKING:
    from msp_ds.training.batch_loader import StepBatch
    from tools.bench.common.replayed_loop import Stand

STEPS = 10
"""Of a round; the loop reports as often."""
BAR = 1.05
"""Times the plain step that a step of the loop may take."""


@dataclass(kw_only=True)
class Turns:
    """Steps of the loop and plain ones, in turns: the loop asks for a portion, and the plain step has its turn then."""

    step_batches: list[StepBatch]
    plain: Callable[[StepBatch], Any]
    clock: Clock
    loop_steps: list[Taken] = field(default_factory=list)
    plain_steps: list[Taken] = field(default_factory=list)

    def __iter__(self) -> Iterator[StepBatch]:
        for number, step_batch in enumerate(self.step_batches):
            if number % 2:
                self._plain(step_batch)
            began = taken(self.clock)
            yield step_batch
            self.loop_steps.append(taken(self.clock) - began)
            if not number % 2:
                self._plain(step_batch)

    def _plain(self, step_batch: StepBatch) -> None:
        began = taken(self.clock)
        self.plain(step_batch)
        self.plain_steps.append(taken(self.clock) - began)


def rounds(steps: list[Taken]) -> list[Taken]:
    """Sums of STEPS steps each, the first such round left out: it warms up."""
    starts = range(STEPS, len(steps) - STEPS + 1, STEPS)
    return [sum(steps[start : start + STEPS], Taken(0.0, 0.0)) for start in starts]


def compared(turns: Turns) -> dict[str, Any]:
    """Of each round, the loop to the plain step; and what a step takes."""
    loop, plain = rounds(turns.loop_steps), rounds(turns.plain_steps)
    by_step = spread(
        [one.seconds for one in turns.loop_steps[STEPS:]],
        [one.seconds for one in turns.plain_steps[STEPS:]],
    )
    return {
        "of_rounds": spread([one.seconds for one in loop], [one.seconds for one in plain]),
        "of_rounds_by_the_wall": spread([one.wall for one in loop], [one.wall for one in plain]),
        "of_single_steps": by_step,
        "loop_seconds": statistics.median(one.seconds for one in loop) / STEPS,
        "plain_seconds": statistics.median(one.seconds for one in plain) / STEPS,
        "wall_to_cpu": sum(one.wall for one in plain) / sum(one.seconds for one in plain),
    }


def measured(stand: Stand) -> dict[str, Any]:
    """Trains both ways in turns; what came of it."""
    model = stand.preset.model
    context, pool = a_context(model), Pool(model, batch_size=stand.batch_size)
    batches = pool.choices(STEPS)
    kept = [stand.step_batch(0, pool.batch(pairs), context) for pairs in batches]
    steps = [dataclasses.replace(kept[step % STEPS], step=step) for step in range(stand.num_steps)]
    turns = Turns(step_batches=steps, plain=stand.plain_step(stand.model(context)), clock=Clock(stand.runtime.device))
    order = Order([torch.arange(PAIRS)], seed=0, batch_size=stand.batch_size)
    loop = stand.loop(stand.model(context), iter(turns), order)
    with loop.guards.watching():
        loop.run()
    loop.metric_logger.close()
    loop.saver.close()
    return {
        **compared(turns),
        "parameters": sum(one.numel() for one in loop.engine.engine.module.parameters()),
        "text_slots_a_pair": pool.mean_slots(),
    }


def table(found: dict[str, Any]) -> Table:
    """What was found, to look at."""
    shown = Table("the loop's step / the plain step", "median of rounds", "least to most", "of all rounds")
    for name, key in (("time", "of_rounds"), ("wall", "of_rounds_by_the_wall"), ("single steps", "of_single_steps")):
        one = found[key]
        cells = (f"{one['median']:.3f}", f"{one['least']:.3f} to {one['most']:.3f}", f"{one['of_sums']:.3f}")
        shown.add_row(name, *cells)
    shown.title = (
        f"{found['preset']}, {found['parameters'] / 1e6:.1f} M parameters, B = {found['batch_size']}, "
        f"{found['loop_seconds'] * 1e3:.0f} ms and {found['plain_seconds'] * 1e3:.0f} ms a step"
    )
    return shown


def main(
    preset: Annotated[str, typer.Option(help="Whose model is trained.")] = "small",
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a step.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds of ten steps that count, after one that does not.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time the training loop beside a plain one."""
    choose_device(device)
    with one_line_errors(debug=False):
        chosen = get_preset(preset)
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("there is no GPU here; leave --device out")
        if batch_size > PAIRS:
            raise InputError(f"the pool has {PAIRS} pairs; make --batch-size smaller")
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
        found = hardware(runtime.device) | {"preset": preset, "batch_size": batch_size, "repeat": repeat}
        found |= measured(stand)
    torch.distributed.destroy_process_group()
    console = Terminal(width=140)
    console.print(table(found))
    ratio = found["of_rounds"]["median"]
    console.print(f"{'within' if ratio <= BAR else 'above'} the bar of {BAR} times the plain step")
    if found["wall_to_cpu"] > BUSY:
        console.print(f"other programs kept this machine busy (wall/CPU {found['wall_to_cpu']:.2f}): run it again")
    write_figures(found, out, console)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
