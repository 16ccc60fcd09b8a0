"""Compares the loss curves of two commits, each trained for a few steps, or of two finished runs.

    python tools/check/loss_compare.py main HEAD                 (two trainings of 30 steps a stage: a minute or two)
    python tools/check/loss_compare.py runs/tps runs/tps-2       (at once)

Each commit is checked out in a worktree of its own and runs its own short_training.py, on a demo world that it makes.
Prints the curve of every task and the largest difference. Exit code 0 when all curves are equal to the last bit or
within --tolerance, 1 when they are not, 2 when there is nothing to compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this checkout's, wherever the program is called from

from msp_ds.errors import InputError  # noqa: E402
from msp_ds.progress import progress_bar  # noqa: E402
from msp_ds.terminal import Table, Terminal, run_tool  # noqa: E402
from tools.check.short_training import STEPS, Curves, curves_of  # noqa: E402

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The curves of one task in one stage, from both sides."""

    stage: str
    task: str
    ours: list[float]
    theirs: list[float]

    @property
    def largest(self) -> float:
        """The largest `distance` over all steps."""
        return max(distance(one, other) for one, other in zip(self.ours, self.theirs, strict=True))

    @property
    def first_step(self) -> int | None:
        """The first step, counted from 1, whose losses differ in any bit."""
        pairs = enumerate(zip(self.ours, self.theirs, strict=True), start=1)
        return next((step for step, (one, other) in pairs if one != other), None)


def distance(one: float, other: float) -> float:
    """Return |one - other|; relative to the larger where that is above 1."""
    return abs(one - other) / max(1.0, abs(one), abs(other))


def differences(ours: Curves, theirs: Curves) -> list[Difference]:
    """Pair the curves of each task of each stage.

    Raises:
        InputError: One side has a curve or a step that the other lacks.
    """
    found = []
    for stage in dict.fromkeys([*ours, *theirs]):
        here, there = ours.get(stage, {}), theirs.get(stage, {})
        for task in dict.fromkeys([*here, *there]):
            sizes = len(here.get(task, [])), len(there.get(task, []))
            if sizes[0] != sizes[1]:
                raise InputError(
                    f"{task} of stage {stage} has {sizes[0]} losses in the first and {sizes[1]} in the second"
                )
            found.append(Difference(stage=stage, task=task, ours=here[task], theirs=there[task]))
    if not found:
        raise InputError("there are no losses to compare; give commits, or run folders as runs/tps")
    return found


def difference_table(found: list[Difference]) -> Table:
    """Return a table with one row a curve: its shape, first and last loss of both sides, the largest difference."""
    table = Table("stage", "loss", "curve", "first to last", "the other's", "largest difference", "from step")
    for one in found:
        first = one.first_step
        table.add_row(
            one.stage,
            one.task,
            sketch(one.ours),
            *(f"{curve[0]:.4f} → {curve[-1]:.4f}" for curve in (one.ours, one.theirs)),
            "none" if first is None else f"{one.largest:.2e}",
            "" if first is None else str(first),
        )
    return table


def sketch(curve: list[float], *, width: int = 30) -> str:
    """Draw a curve as a line of bars."""
    low, high = min(curve), max(curve)
    step = max(1, len(curve) // width)
    return "".join(
        BARS[round((value - low) / ((high - low) or 1) * (len(BARS) - 1))] for value in curve[::step][:width]
    )


def commit_of(name: str) -> str:
    """Return the full hash of a commit; raises InputError where git knows none of that name."""
    done = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if done.returncode:
        raise InputError(f"{name} is neither a commit nor a run folder; give two of them: main HEAD, or runs/a runs/b")
    return done.stdout.strip()


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """Run git in this repository."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check out a commit as a worktree in `folder` and remove it afterwards."""
    done = git("worktree", "add", "--detach", "--quiet", str(folder), commit)
    if done.returncode:
        raise InputError(f"git cannot check out {commit}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def short_training_in(code: Path) -> Path:
    """Return the path of short_training.py in a checkout; older commits have it directly in tools/."""
    paths = [code / "tools" / "check" / "short_training.py", code / "tools" / "short_training.py"]
    return next((path for path in paths if path.is_file()), paths[0])


def trained_at(name: str, commit: str, *, steps: int) -> Curves:
    """Return the loss curves of a commit, trained by the commit's own short_training.py, which fits its package."""
    with tempfile.TemporaryDirectory() as scratch, checked_out(commit, Path(scratch, "checkout")) as code:
        out = Path(scratch, "curves.json")
        command = [sys.executable, str(short_training_in(code)), "--out", str(out), "--steps", str(steps)]
        # That commit's package and its tests' small world, not those of this checkout.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(code), str(code / "tests"), str(code / "tests" / "support"))),
        }
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=code, env=environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise InputError(f"the short training of {name} failed: {last}")
        curves: Curves = json.loads(out.read_text(encoding="utf-8"))["curves"]
        return curves


def losses_of(name: str, *, steps: int) -> Callable[[], Curves]:
    """Return a function that gets the curves of a run folder or a commit; raises InputError where it is neither."""
    if (Path(name) / "run.json").is_file():
        return lambda: curves_of(Path(name))
    commit = commit_of(name)
    return lambda: trained_at(name, commit, steps=steps)


def main(
    first: Annotated[str, typer.Argument(help="A commit, or a run folder.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each stage, for commits.")] = STEPS,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference that passes; relative for losses above 1.")
    ] = 0.0,
) -> None:
    """Compare the loss curves of two commits or of two runs."""
    with progress_bar() as progress:
        sources = {name: losses_of(name, steps=steps) for name in (first, second)}
        curves = {}
        for name, source in sources.items():
            bar = progress.add_task(name[:18], total=None, note="training" if not Path(name).is_dir() else "")
            curves[name] = source()
            progress.update(bar, total=1, completed=1, note="")
        found = differences(curves[first], curves[second])
    Terminal().print(difference_table(found))
    largest = max(one.largest for one in found)
    equal = all(one.first_step is None for one in found)
    verdict = "equal to the last bit" if equal else f"largest difference {largest:.2e}, tolerance {tolerance:g}"
    Terminal(soft_wrap=True).print(f"{first} and {second}: {verdict}")
    raise typer.Exit(0 if largest <= tolerance else 1)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
