"""Tables of what a curriculum is and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from msp_ds.config import StageSchedule
from msp_ds.curriculum import Stage, curriculum
from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.records import IGNORE
from msp_ds.terminal import Table
from msp_ds.training.checkpointing.run_folder import read_finished, read_run_config, stage_folders

METRICS = {
    "accuracy/mlm": "MLM accuracy",
    "accuracy/moc_object": "MOC object accuracy",
    "accuracy/moc_attribute": "MOC attribute accuracy",
    "error/mrfr": "MRFR error / mean's",
    "accuracy/ifrs": "IFRS accuracy among 3",
    "error/ifrs": "IFRS error / mean's",
    "error/ifrs_vs_copy": "IFRS error / copy's",
    "f1/titp": "TITP topic F1",
    "f1/tits": "TITS topic F1",
    "accuracy/itm_hs": "ITM_HS accuracy",
}
"""Validation metrics by name, as a reader says them."""

TEXTS = {
    "token": "object labels in region order",
    "phrase": "phrases without verbs",
    "sentence": "captions",
    "vqa": "questions",
    "gqa": "questions",
    "nlvr2": "statements about two images",
    "retrieval": "captions",
}
"""What a stage or a benchmark reads, by its name."""


def stage_table(
    stages: tuple[Stage, ...], schedule: Mapping[str, StageSchedule], *, preset: str, settings: Sequence[str] = ()
) -> Table:
    """What each stage trains, on what, for how long, by which preset; `settings` are shown as they were written."""
    title = f"Curriculum, preset {preset}"
    table = Table("stage", "tasks", "text", "epochs x batch", title=title, title_justify="left")
    table.caption, table.caption_justify = (f"set: {', '.join(settings)}" if settings else None), "left"
    for stage in stages:
        row = stage.schedule(dict(schedule))
        tasks = ", ".join(task.name for task in stage.tasks)
        said = "; ".join(TEXTS[part.name] for part in stage.parts)
        table.add_row(stage.name, tasks, said, f"{row.epochs} x {row.batch_size}")
    return table


def results_table(run: Path) -> Table:
    """Every task's last validation, a column a stage, with what always giving the commonest answer would score."""
    config = read_run_config(run)
    stages = curriculum(config.curriculum, drop=config.drop)
    results = [_validation(folder) for folder in stage_folders(run, stages)]
    table = Table(
        "held-out metric",
        title=f"What each stage learnt ({run})",
        title_justify="left",
        caption="Errors are relative to those of the mean feature and of a copy of the shuffled input.",
        caption_justify="left",
    )
    for stage in stages:
        table.add_column(stage.name, justify="right")
    table.add_column("commonest answer's", justify="right", style="dim")
    common = commonest_shares(Path(config.shards), stages)
    for name, words in METRICS.items():
        values = [result.get(name, math.nan) for result in results]
        if not all(math.isnan(value) for value in values):
            table.add_row(words, *(_shown(value) for value in values), common.get(name, ""))
    return table


def commonest_shares(shards: Path, stages: tuple[Stage, ...]) -> dict[str, str]:
    """What the commonest answer of the held-out questions would score: one share a stage, as text."""
    shares: dict[str, list[float]] = {"accuracy/mlm": [], "accuracy/moc_object": [], "accuracy/moc_attribute": []}
    for stage in stages:
        reader = Reader(open_set(shards / stage.parts[-1].name / "val"))
        pieces = torch.from_numpy(reader.shards.pairs.token_ids)
        words = pieces[torch.from_numpy(reader.shards.pairs.word_positions) > 1]
        shares["accuracy/mlm"].append(_largest_share(words))
        records = [reader.record(row) for row in range(reader.num_images)]
        for kind in ("object", "attribute"):
            labels = torch.cat([torch.from_numpy(getattr(record, f"{kind}_ids").copy()) for record in records])
            shares[f"accuracy/moc_{kind}"].append(_largest_share(labels[labels != IGNORE]))
    shown = {name: " / ".join(dict.fromkeys(_shown(value) for value in values)) for name, values in shares.items()}
    return shown | {"accuracy/itm_hs": _shown(0.5), "accuracy/ifrs": _shown(1 / 3)}


def _largest_share(values: torch.Tensor) -> float:
    return float(torch.unique(values, return_counts=True)[1].max()) / len(values) if len(values) else math.nan


def _validation(folder: Path) -> dict[str, float]:
    values = read_finished(folder).validation
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
