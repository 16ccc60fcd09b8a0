"""Trains the tiny preset for 30 steps a stage on a demo world of 80 images, in fp32 on the CPU; writes the loss curves.

    python tools/check/short_training.py --out tests/golden/curves.json   (half a minute; refreshes the golden curves)

tests/training/runs/test_golden_curves.py compares with that file; tools/check/loss_compare.py runs this program in two
commits. A change that should not alter the mathematics leaves every curve as it is. A change that should alter it
refreshes the file in the same commit, and the commit message says why.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from msp_ds.terminal import Terminal, run_tool

if TYPE_CHECKING:
    from msp_ds.training.distributed.runtime import Runtime

STEPS = 30
BATCH_SIZE = 16

Curves = dict[str, dict[str, list[float]]]
"""Stage -> task -> the loss of each step."""


def curves_of(run: Path) -> Curves:
    """The loss curves that a run folder holds, by the names of its stages."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: Curves = {}
    for stage in sorted(run.glob("[0-9]*-*")):
        events = EventAccumulator(str(stage), size_guidance={"scalars": 0})
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if name.startswith("loss/")]
        curves = {name.removeprefix("loss/"): [one.value for one in events.Scalars(name)] for name in sorted(names)}
        found[stage.name.split("-", 1)[1]] = curves
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread while the block runs, so that sums are always added up in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def short_training(shards: Path, run: Path, runtime: Runtime, *, steps: int = STEPS) -> Curves:
    """The curves of `steps` steps of each stage, on one thread, each from the checkpoint of the one before.

    run: the folder of the run.
    """
    from msp_ds.training.engine.execution import Execution
    from msp_ds.training.guards.interrupt import StopRequest
    from msp_ds.training.options import RunOptions
    from msp_ds.training.planning import new_config
    from msp_ds.training.run import train
    from msp_ds.training.stage import Job

    flags: dict[str, Any] = {"curriculum": "tps", "preset": "tiny", "shards": str(shards)}
    config = new_config(RunOptions(**flags, batch_size=BATCH_SIZE, epochs=str(steps), max_steps=steps))
    job = Job(
        config=config,
        execution=Execution(precision="fp32"),
        folder=run,
        runtime=runtime,
        stop=StopRequest(),
        report_every=1,
    )
    with one_thread():
        train(job)
    return curves_of(run)


def shard_hashes(shards: Path) -> dict[str, str]:
    """sha256 of the index of each set: other data give other curves, whatever the code."""
    from msp_ds.data.format.shards import open_set

    return {stage: open_set(shards / stage / "train").index_sha256 for stage in ("token", "phrase", "sentence")}


def main(
    out: Annotated[Path, typer.Option(help="File for the curves.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each stage.")] = STEPS,
) -> None:
    """Make the world, train, write the curves."""
    from msp_ds.config import write_json
    from msp_ds.training.distributed.runtime import start_runtime

    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))
    from small_world import write_shards

    runtime = start_runtime(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder))
        curves = short_training(shards, Path(folder, "run"), runtime, steps=steps)
        facts: dict[str, Any] = {
            "made_by": f"python tools/check/short_training.py --out {out}",
            "torch": torch.__version__.split("+")[0],
            "shards": shard_hashes(shards),
            "curves": curves,
        }
        write_json(out, facts)
    Terminal(stderr=True).print(f"{out}: {sum(map(len, curves.values()))} curves of {steps} steps")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
