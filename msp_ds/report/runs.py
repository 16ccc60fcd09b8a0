"""A table of runs, read from their folders alone: no checkpoint is loaded and no process is queried."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msp_ds.curriculum import curriculum
from msp_ds.errors import InputError
from msp_ds.storage.folder_search import folders_with
from msp_ds.storage.locks import is_being_written
from msp_ds.terminal import Table, styled
from msp_ds.training.checkpointing.checkpoint import MANIFEST, read_manifest
from msp_ds.training.checkpointing.run_folder import RUN_FILE, STAGE_FILE, read_finished, read_run_config, stage_folders
from msp_ds.training.monitoring.metrics_file import METRICS_FILE, read_metrics

log = logging.getLogger(__name__)

State = Literal["finished", "running", "stopped"]

STILL = 120.0  # seconds without a report after which a run without a lock counts as stopped


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """The state of a run by its folder."""

    name: str
    curriculum: str
    preset: str
    stage: str  # the last stage that has begun; empty before the first
    step: int
    num_steps: int | None  # steps of that stage; None before its first report
    state: State
    best: float  # lowest total validation loss of that stage; nan without a validation
    best_step: int
    changed: float  # time of the last change, in seconds since 1970


def run_lines(folder: Path, *, now: Callable[[], float] = time.time) -> list[RunLine]:
    """Return the runs in and below a folder, the one that changed last at the end.

    A run whose run.json cannot be read is logged as a warning. Raises InputError when there is no run.
    """
    found = list(folders_with(RUN_FILE, folder))
    if not found:
        raise InputError(f"there is no run in {folder}; start one with: msp-ds train --curriculum tps")
    lines = []
    for path in found:
        try:
            lines.append(_line(path, name=str(path.relative_to(folder)), now=now))
        except (InputError, OSError) as error:  # another process may write or remove it now
            log.warning("%s is left out: %s", path, error)
    return sorted(lines, key=lambda line: (line.changed, line.name))


def _line(run: Path, *, name: str, now: Callable[[], float]) -> RunLine:
    config = read_run_config(run)
    stages = curriculum(config.curriculum, drop=config.drop)
    folders = stage_folders(run, stages)
    begun = [number for number, path in enumerate(folders) if path.is_dir()]
    signs = (STAGE_FILE, METRICS_FILE, f"checkpoints/*/{MANIFEST}")
    written = [path for stage in folders for sign in signs for path in stage.glob(sign)]
    changed = max(path.stat().st_mtime for path in (run / RUN_FILE, *written))
    last = begun[-1] if begun else None
    rows = read_metrics(folders[last] / METRICS_FILE) if last is not None else []
    step, num_steps = (0, None) if last is None else _progress(folders[last], rows)
    best, best_step = _best(rows)
    return RunLine(
        name=run.resolve().name if name == "." else name,
        curriculum=config.curriculum,
        preset=config.preset,
        stage="" if last is None else stages[last].name,
        step=step,
        num_steps=num_steps,
        state=_state(run, folders, age=now() - changed),
        best=best,
        best_step=best_step,
        changed=changed,
    )


def _progress(stage: Path, rows: list[dict[str, Any]]) -> tuple[int, int | None]:
    """Steps done and steps in all, by the stage's end mark, its last report or its newest checkpoint."""
    if (stage / STAGE_FILE).is_file():
        steps = read_finished(stage).steps
        return steps, steps
    if rows:
        return int(rows[-1]["step"]), _whole(rows[-1], "num_steps")
    saved = sorted(stage.glob(f"checkpoints/step-*/{MANIFEST}"))
    if not saved:
        return 0, None
    manifest = read_manifest(saved[-1].parent)
    return manifest.step, _whole(manifest.state, "num_steps")


def _whole(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _best(rows: list[dict[str, Any]]) -> tuple[float, int]:
    losses = [
        (float(row["loss/total"]), int(row["step"]))
        for row in rows
        if row.get("report") == "validation" and isinstance(row.get("loss/total"), (int, float))
    ]
    return min(losses, default=(math.nan, 0))


def _state(run: Path, stages: list[Path], *, age: float) -> State:
    if all((stage / STAGE_FILE).is_file() for stage in stages):
        return "finished"
    written = is_being_written(run)
    return "running" if written or (written is None and age < STILL) else "stopped"


_LEAST = ("preset", "curriculum", "last change", "best held-out loss", "stage", "step")
"""Columns in the order in which a narrow terminal drops them."""
_STYLES: dict[State, str] = {"finished": "green", "running": "bold yellow", "stopped": "red"}


def runs_table(folder: Path, *, now: Callable[[], float] = time.time) -> Table:
    """Return the runs in a folder as a table."""
    table = Table("run", "curriculum", "preset", "stage", title=f"Runs in {folder}", expendable=_LEAST)
    table.add_column("step", justify="right")
    table.add_column("state")
    table.add_column("best held-out loss", justify="right")
    table.add_column("last change", justify="right")
    for line in run_lines(folder, now=now):
        steps = f"{line.step:,} of {'?' if line.num_steps is None else f'{line.num_steps:,}'}"
        best = "" if math.isnan(line.best) else f"{line.best:.4f} at {line.best_step:,}"
        state = styled((line.state, _STYLES[line.state]))
        ago = _ago(now() - line.changed)
        table.add_row(line.name, line.curriculum, line.preset, line.stage, steps, state, best, ago)
    return table


def _ago(seconds: float) -> str:
    """`now`, `5 min ago`, `3 h ago`, `2 days ago`."""
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "now"
