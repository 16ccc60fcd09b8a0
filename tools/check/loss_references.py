"""Prints how far each loss is from the one written apart from it, number by number: one row a loss.

    python tools/check/loss_references.py                  (200 random batches; about ten seconds; exit code 0)

The slow losses are tests/reference/slow_losses.py, written from the paper and not from msp_ds/tasks. Half of the
batches are ordinary, the others have everything masked, nothing masked, no topic, no label, no region, or no pair that
matches; options are drawn again for each. Exit code 1 where a difference is above --tolerance.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))
try:
    from reference.comparison import Agreement, agreements, examples
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; the references lie in tests/ of a checkout: run this from there") from None

from msp_ds.progress import progress_bar
from msp_ds.terminal import Table, Terminal, run_tool
from tools.command_line import number_table


def table(found: dict[str, Agreement]) -> Table:
    """One row a loss."""
    headers = ("loss", "batches", "of them empty", "largest difference, float64", "float32, as in training")
    rows = (
        (name, str(one.batches), str(one.empty), f"{one.double:.1e}", f"{one.single:.1e}")
        for name, one in found.items()
    )
    return number_table("msp_ds/tasks against tests/reference", headers, rows)


def main(
    batches: Annotated[int, typer.Option(min=1, help="How many random batches.")] = 200,
    tolerance: Annotated[float, typer.Option(help="Largest difference that passes.")] = 1e-6,
) -> None:
    """Score random batches both ways and show the largest difference of each loss."""
    with progress_bar() as progress:
        bar = progress.add_task("batches", total=batches, note="")
        found = agreements(examples(batches), advance=lambda: progress.advance(bar))
    Terminal().print(table(found))
    raise typer.Exit(0 if all(max(one.double, one.single) < tolerance for one in found.values()) else 1)


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
