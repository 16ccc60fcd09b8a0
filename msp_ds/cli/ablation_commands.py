"""The command that trains and grades the rows of the paper's ablation study."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msp_ds.config import RunConfig
from msp_ds.terminal import Terminal, resumable, speak
from msp_ds.training.options import help_of

if TYPE_CHECKING:
    from msp_ds.ablation.plan import AblationRequest

FIRST_SEED = RunConfig.seed
_PROGRAM = (sys.executable, "-c", "from msp_ds.cli import main; main()")


def ablate(
    table: Annotated[int, typer.Option(min=4, max=4, help="Number of the table in the paper: 4.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help=f"Number of seeds, counted from {FIRST_SEED}.")] = 3,
    shards: Annotated[Path, typer.Option(help="Folder with the shards of the stages and benchmarks.")] = Path("shards"),
    out: Annotated[Path, typer.Option(help="Folder for the runs, their grades and the table.")] = Path("ablations"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of each row over its stages. [the preset's t, p and s]")
    ] = None,
    benchmarks: Annotated[
        str, typer.Option(help="zero-shot-retrieval, vqa, gqa, nlvr2, retrieval.")
    ] = "zero-shot-retrieval,vqa",
    preset: Annotated[str | None, typer.Option(help=help_of("preset"))] = None,
    rows: Annotated[str | None, typer.Option(help="Only these: none,s,s-itm_hs,ts,ts-ifrs,tps ... [all]")] = None,
    fine_tuning_steps: Annotated[
        int | None, typer.Option(min=1, help="End fine-tuning after this many steps. [the preset's epochs]")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help=help_of("settings"))] = None,
    fine_tuning_setting: Annotated[
        list[str] | None,
        typer.Option("--fine-tuning-set", help="The same for fine-tuning: optim.lr=5e-4; may be repeated."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Retrieval: grade on this many images only.")] = None,
    captions_per_image: Annotated[
        int | None, typer.Option(min=1, help="Retrieval: use this many captions of each image.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, its counts and an estimate, and train nothing.")
    ] = False,
) -> None:
    """Train and grade every row of the paper's Table 4. The same command continues an interrupted study."""
    from msp_ds.ablation.plan import AblationRequest, chosen_benchmarks
    from msp_ds.ablation.rows import chosen_rows

    with resumable():
        speak()
        request = AblationRequest(
            out=out,
            shards=shards,
            rows=chosen_rows(rows),
            benchmarks=chosen_benchmarks(benchmarks),
            seeds=tuple(range(FIRST_SEED, FIRST_SEED + seeds)),
            setting=tuple(setting or ()),
            fine_tuning_setting=tuple(fine_tuning_setting or ()),
            fine_tuning_limit=fine_tuning_steps,
            images=images,
            captions_per_image=captions_per_image,
        )
        failures = _plan_and_run(request, preset=preset, steps=steps, dry_run=dry_run)
    for node, reason in failures.items():
        Terminal(stderr=True, soft_wrap=True).print(f"failed: {node}: {reason}")
    if failures:
        raise SystemExit(1)


def _plan_and_run(
    request: AblationRequest, *, preset: str | None, steps: int | None, dry_run: bool
) -> Mapping[str, str]:
    """Show the plan, run it and show the table; return the nodes that failed, with the reason."""
    from msp_ds.ablation.plan import plan_ablation
    from msp_ds.ablation.plot import ablation_plot
    from msp_ds.ablation.runner import finished_nodes, read_record, run_ablation, study_of
    from msp_ds.ablation.table import grid_of, plan_table, plan_words, terminal_table, write_tables
    from msp_ds.storage.locks import lock_folder

    show = Terminal()
    study, hashes = study_of(request, preset=preset, steps=steps)
    plan, record = plan_ablation(study), read_record(study, hashes)
    show.print(plan_table(plan))
    show.print(plan_words(plan, record.nodes, finished_nodes(plan, record)), soft_wrap=True)
    if dry_run:
        return {}
    with lock_folder(request.out):
        results = run_ablation(plan, read_record(study, hashes), launch=launch)
    grid = grid_of(plan, results.nodes)
    files = write_tables(grid, request.out, plot=ablation_plot(grid))
    show.print(terminal_table(grid))
    show.print(grid.caption, style="dim")
    show.print(f"written to {', '.join(map(str, files))}", soft_wrap=True)
    return results.failures


def launch(words: Sequence[str], log: Path) -> int:
    """Run `msp-ds WORDS` in a process of its own and append its output to `log`; return the exit code.

    Ctrl-C reaches that process too: wait until it has saved its checkpoint.
    """
    with log.open("a", encoding="utf-8") as output:
        output.write(f"\n$ msp-ds {' '.join(words)}\n")
        output.flush()
        with subprocess.Popen([*_PROGRAM, *words], stdout=output, stderr=subprocess.STDOUT) as process:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.wait()
                raise
