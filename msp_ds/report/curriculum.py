"""Tables of a curriculum: its stages, and their validation metrics after training."""

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
"""Validation metric -> its name for readers."""

TEXTS = {
    "token": "object labels in region order",
    "phrase": "phrases without verbs",
    "sentence": "captions",
    "vqa": "questions",
    "gqa": "questions",
    "nlvr2": "statements about two images",
    "retrieval": "captions",
}
"""Stage or benchmark -> the texts that it reads."""


def stage_table(
    stages: tuple[Stage, ...], schedule: Mapping[str, StageSchedule], *, preset: str, settings: Sequence[str] = ()
) -> Table:
    """Return a table of the stages: tasks, texts, epochs and batch size; its caption lists the `settings`."""
    caption = f"set: {', '.join(settings)}" if settings else None
    title = f"Curriculum, preset {preset}"
    table = Table("stage", "tasks", "text", "epochs x batch", title=title, caption=caption)
    for stage in stages:
        row = stage.schedule(dict(schedule))
        tasks = ", ".join(task.name for task in stage.tasks)
        texts = "; ".join(TEXTS[part.name] for part in stage.parts)
        table.add_row(stage.name, tasks, texts, f"{row.epochs} x {row.batch_size}")
    return table


def results_table(run: Path) -> Table:
    """Return a table of the last validation of each stage, beside the scores of the most frequent answer."""
    config = read_run_config(run)
    stages = curriculum(config.curriculum, drop=config.drop)
    results = [read_finished(folder).validation for folder in stage_folders(run, stages)]
    table = Table(
        "held-out metric",
        title=f"Validation of each stage ({run})",
        caption="Errors are relative to those of the mean feature and of a copy of the shuffled input.",
    )
    for stage in stages:
        table.add_column(stage.name, justify="right")
    table.add_column("most frequent answer", justify="right", style="dim")
    common = majority_scores(Path(config.shards), stages)
    for name, words in METRICS.items():
        values = [_shown(result.get(name)) for result in results]
        if any(values):
            table.add_row(words, *values, common.get(name, ""))
    return table


def majority_scores(shards: Path, stages: tuple[Stage, ...]) -> dict[str, str]:
    """Return the accuracy of the most frequent answer on the held-out set: metric -> one number a stage, as text."""
    scores: dict[str, list[float]] = {"accuracy/mlm": [], "accuracy/moc_object": [], "accuracy/moc_attribute": []}
    for stage in stages:
        reader = Reader(open_set(shards / stage.parts[-1].name / "val"))
        pieces = torch.from_numpy(reader.shards.pairs.token_ids)
        words = pieces[torch.from_numpy(reader.shards.pairs.word_positions) > 1]
        scores["accuracy/mlm"].append(_majority_ratio(words))
        records = [reader.record(row) for row in range(reader.num_images)]
        for kind in ("object", "attribute"):
            labels = torch.cat([torch.from_numpy(getattr(record, f"{kind}_ids").copy()) for record in records])
            scores[f"accuracy/moc_{kind}"].append(_majority_ratio(labels[labels != IGNORE]))
    shown = {name: " / ".join(dict.fromkeys(_shown(value) for value in values)) for name, values in scores.items()}
    return shown | {"accuracy/itm_hs": _shown(0.5), "accuracy/ifrs": _shown(1 / 3)}


def _majority_ratio(values: torch.Tensor) -> float:
    return float(torch.unique(values, return_counts=True)[1].max()) / len(values) if len(values) else math.nan


def _shown(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
