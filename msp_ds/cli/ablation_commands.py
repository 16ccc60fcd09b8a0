"""The command that trains and grades the rows of the paper's ablation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msp_ds.terminal import Terminal, one_line_errors, resumable, speak
from msp_ds.train import Debug, PresetName, Setting

if TYPE_CHECKING:
    from msp_ds.ablation.plan import AblationRequest

FIRST_SEED = 9595
_PROGRAM = (sys.executable, "-c", "from msp_ds.cli import main; main()")


def ablate(
    table: Annotated[int, typer.Option(min=4, max=4, help="Which of the paper's tables: 4.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help=f"So many seeds, from {FIRST_SEED} on.")] = 3,
    shards: Annotated[Path, typer.Option(help="Folder with the shards of the stages and benchmarks.")] = Path("shards"),
    out: Annotated[Path, typer.Option(help="Folder for the runs, their grades and the table.")] = Path("ablations"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of each row over its stages. [the preset's t, p and s]")
    ] = None,
    benchmarks: Annotated[
        str, typer.Option(help="zero-shot-retrieval, vqa, gqa, nlvr2, retrieval.")
    ] = "zero-shot-retrieval,vqa",
    preset: PresetName = None,
    rows: Annotated[str | None, typer.Option(help="Only these: none,s,s-itm_hs,ts,ts-ifrs,tps ... [all]")] = None,
    fine_tuning_steps: Annotated[
        int | None, typer.Option(min=1, help="End fine-tuning after so many steps. [the preset's epochs]")
    ] = None,
    setting: Setting = None,
    fine_tuning_setting: Annotated[
        list[str] | None, typer.Option("--fine-tuning-set", help="The same for fine-tuning: optim.lr=5e-4; repeatable.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Retrieval: only the first so many images.")] = None,
    captions_per_image: Annotated[
        int | None, typer.Option(min=1, help="Retrieval: only so many of each image's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, its counts and an estimate.")] = False,
    debug: Debug = False,
) -> None:
    """Train and grade every row of the paper's Table 4; the same command goes on where it was interrupted."""
    from msp_ds.ablation.plan import AblationRequest, chosen_benchmarks
    from msp_ds.ablation.rows import chosen_rows

    with one_line_errors(debug=debug), resumable():
        speak()
        asked = AblationRequest(
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
        failures = _plan_and_run(asked, preset=preset, steps=steps, dry_run=dry_run)
    for node, reason in failures.items():
        Terminal(stderr=True, soft_wrap=True).print(f"failed: {node}: {reason}")
    if failures:
        raise SystemExit(1)


def _plan_and_run(asked: AblationRequest, *, preset: str | None, steps: int | None, dry_run: bool) -> Mapping[str, str]:
    """Shows the plan, runs it and shows the table; returns what failed, and why."""
    from msp_ds.ablation.plan import plan_ablation
    from msp_ds.ablation.plot import ablation_plot
    from msp_ds.ablation.runner import finished_nodes, read_record, run_ablation, study_of
    from msp_ds.ablation.table import grid_of, plan_table, plan_words, terminal_table, write_tables
    from msp_ds.storage.locks import lock_folder

    show = Terminal()
    study, hashes = study_of(asked, preset=preset, steps=steps)
    plan, record = plan_ablation(study), read_record(study, hashes)
    show.print(plan_table(plan))
    show.print(plan_words(plan, record.nodes, finished_nodes(plan, record)), soft_wrap=True)
    if dry_run:
        return {}
    with lock_folder(asked.out):
        results = run_ablation(plan, read_record(study, hashes), launch=launch)
    grid = grid_of(plan, results.nodes)
    files = write_tables(grid, asked.out, plot=ablation_plot(grid))
    show.print(terminal_table(grid))
    show.print(grid.caption, style="dim")
    show.print(f"written to {', '.join(map(str, files))}", soft_wrap=True)
    return results.failures


def launch(words: Sequence[str], said: Path) -> int:
    """Runs `msp-ds WORDS` in a process of its own, its output at the end of file `said`; returns the exit code.

    On Ctrl-C, which reaches that process too, it waits until its checkpoint is saved.
    """
    with said.open("a", encoding="utf-8") as output:
        output.write(f"\n$ msp-ds {' '.join(words)}\n")
        output.flush()
        with subprocess.Popen([*_PROGRAM, *words], stdout=output, stderr=subprocess.STDOUT) as process:
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.wait()
                raise
