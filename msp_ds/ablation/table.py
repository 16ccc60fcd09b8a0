"""The table of an ablation: mean ± standard deviation over seeds, with the paper's numbers beside it in grey."""

import csv
import io
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msp_ds.ablation.plan import Plan, seconds_for
from msp_ds.ablation.rows import PAPER, AblationRow
from msp_ds.ablation.runner import METRICS, CommandResult, duration_text, timed
from msp_ds.errors import writing
from msp_ds.storage.atomic_files import write_atomically
from msp_ds.terminal import Table
from msp_ds.training.monitoring.metric_texts import plain


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The results of a row in a column."""

    values: tuple[float, ...]  # percent, one for each seed that is evaluated
    planned: int  # number of seeds; 0 if the row cannot be graded
    paper: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self) -> str:
        """Return `71.2 ± 0.3`, with the number of seeds if some are missing."""
        if not self.planned:
            return "–"
        if not self.values:
            return "missing"
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        some = f" ({len(self.values)} of {self.planned})" if len(self.values) < self.planned else ""
        return f"{self.mean:.1f}{spread}{some}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The rows, columns and cells of a table; cells are keyed by (row, column)."""

    rows: tuple[AblationRow, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    caption: str


def grid_of(plan: Plan, nodes: Mapping[str, CommandResult]) -> Grid:
    """Return the table of the results so far."""
    cells = {}
    for (row, benchmark), evaluations in plan.cells.items():
        for column in METRICS[benchmark]:
            graded = [nodes[name].grades for name in evaluations if name in nodes]
            values = tuple(grades[column] for grades in graded if column in grades)
            cells[row, column] = Cell(values=values, planned=len(evaluations), paper=PAPER.get(row, {}).get(column))
    columns = tuple(column for name in METRICS if name in plan.study.benchmarks for column in METRICS[name])
    return Grid(rows=plan.study.rows, columns=columns, cells=cells, caption=_caption(plan, nodes))


def _caption(plan: Plan, nodes: Mapping[str, CommandResult]) -> str:
    study = plan.study
    used = {name for names in plan.cells.values() for name in names if name in nodes}
    spread = f"mean ± standard deviation over {len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    parts = [
        f"percent, {spread}",
        f"each row {study.steps:,} optimiser steps of preset {study.preset} in all, evenly over its stages",
        "IR and TR: mean of R@1, R@5 and R@10, ZS without fine-tuning",
        *(["set: " + " ".join(study.setting)] if study.setting else []),
        *(["set in fine-tuning: " + " ".join(study.fine_tuning_setting)] if study.fine_tuning_setting else []),
        "–: its last stage has no matching task",
        "grey: the paper's numbers, on other data; blank where they could not be typed with certainty",
        *sorted({nodes[name].note for name in used} - {""}),
    ]
    return "; ".join(parts)


def terminal_table(grid: Grid) -> Table:
    """Return the table for a terminal, without its caption, which a narrow table would wrap."""
    table = Table(title="Table 4", expendable=("paper", "tasks"))
    table.add_column("stages")
    table.add_column("tasks")
    for column in grid.columns:
        table.add_column(column, justify="right")
        table.add_column("paper", justify="right", style="bright_black", header_style="bright_black")
    for row in grid.rows:
        shown = [text for column in grid.columns for text in _both(grid.cells[row.name, column])]
        table.add_row(row.stages, row.tasks, *shown)
    return table


def _both(cell: Cell) -> tuple[str, str]:
    return cell.text(), "" if cell.paper is None else f"{cell.paper:g}"


def as_markdown(grid: Grid) -> str:
    """Return the table in Markdown, with the paper's numbers small."""
    head = ["stages", "tasks", *grid.columns]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * len(grid.columns)}"]
    for row in grid.rows:
        pairs = [_both(grid.cells[row.name, column]) for column in grid.columns]
        shown = [f"{ours} <sub>{theirs}</sub>" if theirs else ours for ours, theirs in pairs]
        lines.append(f"| {' | '.join([row.stages, row.tasks, *shown])} |")
    return "\n".join([*lines, "", plain(grid.caption.replace("grey:", "small:")) + ".", ""])


def as_csv(grid: Grid) -> str:
    """Return a line for each row and column: mean, deviation, number of seeds, their values, the paper's number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "stages", "tasks", "column", "mean", "deviation", "seeds", "planned", "values", "paper"])
    for row in grid.rows:
        for column in grid.columns:
            cell = grid.cells[row.name, column]
            mean = f"{cell.mean:.4f}" if cell.values else ""
            deviation = "" if cell.deviation is None else f"{cell.deviation:.4f}"
            values = " ".join(f"{value:.4f}" for value in cell.values)
            counts = [len(cell.values), cell.planned]
            paper = "" if cell.paper is None else cell.paper
            writer.writerow([row.name, row.stages, row.tasks, column, mean, deviation, *counts, values, paper])
    return file.getvalue()


def write_tables(grid: Grid, out: Path, *, plot: str) -> list[Path]:
    """Write the table as CSV and Markdown and the `plot` as SVG; return the files.

    Raises InputError when the folder cannot be written.
    """
    texts = {"table_4.csv": as_csv(grid), "table_4.md": as_markdown(grid), "table_4.svg": plot}
    with writing(out, fix="name another --out"):
        for name, text in texts.items():
            write_atomically(out / name, text.encode())
    return [out / name for name in texts]


def plan_table(plan: Plan) -> Table:
    """Return the runs of each row: stages with their steps and the tasks they drop."""
    table = Table("row", "stages", "tasks", "runs", title="Table 4: the plan")
    for row in plan.study.rows:
        table.add_row(row.name, row.stages, row.tasks, plan.paths[row.name])
    return table


def plan_words(plan: Plan, nodes: Mapping[str, CommandResult], done: set[str]) -> str:
    """Return a summary of the work: rows, runs, steps, and the remaining time if it is known."""
    study = plan.study
    left = [node for node in plan.nodes if node.name not in done]
    kinds = {node.kind: sum(one.kind == node.kind for one in plan.nodes) for node in plan.nodes}
    steps = sum(node.steps for node in plan.nodes if node.kind == "pre-train")
    seconds = seconds_for(left, timed(nodes), every=plan.nodes)
    time = "unknown before some have run" if seconds is None else f"about {duration_text(seconds)}"
    return (
        f"rows {len(study.rows)}, seeds {len(study.seeds)}, {study.steps:,} steps a row with preset {study.preset}: "
        f"{', '.join(f'{count} × {kind}' for kind, count in kinds.items())}.\n"
        f"{steps:,} optimiser steps of pre-training, {plan.unshared:,} if no runs were shared.\n"
        f"Still to do: {len(left)} of {len(plan.nodes)}, time {time}."
    )
