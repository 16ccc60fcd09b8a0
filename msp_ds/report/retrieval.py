"""Zero-shot retrieval as a command: score, keep the scores, grade, show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from msp_ds.config import to_json, write_json
from msp_ds.data.reader import Reader
from msp_ds.data.shards import ShardSet
from msp_ds.downstream.ranking import PairScorer, choose_pool, match_accuracy
from msp_ds.downstream.retrieval_grades import RetrievalGrades, grade_retrieval
from msp_ds.errors import InputError
from msp_ds.model.heads import MatchHead
from msp_ds.terminal import bars
from msp_ds.training.inference import TrainedModel
from msp_ds.training.weights_folder import is_weights_folder


@dataclass(frozen=True, kw_only=True)
class RetrievalReport:
    """What came of a retrieval evaluation."""

    grades: RetrievalGrades
    match_accuracy: float
    """Of the match head, half of the pairs mismatched at random."""
    path: Path
    """The JSON file with these numbers; the score matrix lies beside it as .npz."""


def evaluate_retrieval(
    model: TrainedModel, shards: ShardSet, *, num_images: int | None, captions_per_image: int | None, out: Path
) -> RetrievalReport:
    """Grades zero-shot retrieval on a held-out set; writes the grades and the score matrix into the folder `out`.

    The files are called after what was graded: retrieval-3-sentence-step-00000012-on-sentence-val-300x1.json.
    Raises InputError when the folder cannot be written or is asked for more than the set holds.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); name another folder with --out") from None
    reader = Reader(shards)
    pool = choose_pool(reader, num_images=num_images, captions_per_image=captions_per_image)
    head = model.heads["match"]
    if not isinstance(head, MatchHead):
        raise TypeError(f"the head called 'match' is a {type(head).__name__}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer = PairScorer(model.trunk.to(device), head.to(device))
    with bars() as progress:
        progress.start("retrieval", len(pool.first_pairs) * len(pool.captions))
        scores = scorer.scores(reader, pool, advance=progress.advance)
    grades = grade_retrieval(scores, pool.image_of_caption)
    accuracy = match_accuracy(scores, pool.image_of_caption)
    stem = out / _name(model, shards, num_images=len(pool.first_pairs), captions_per_image=captions_per_image)
    path = stem.with_name(f"{stem.name}.json")
    images = np.array(shards.keys)[reader.images[pool.first_pairs].numpy()]
    np.savez(
        stem.with_name(f"{stem.name}.npz"),
        scores=scores.numpy(),
        image_ids=images,
        caption_keys=reader.keys[pool.captions].numpy(),
        image_of_caption=pool.image_of_caption.numpy(),
    )
    protocol = f"{captions_per_image or 'all'} captions an image, ties against us"
    write_json(
        path,
        {
            "task": "zero-shot retrieval",
            "protocol": protocol,
            "checkpoint": str(model.checkpoint),
            "shards": str(shards.path),
            "index_sha256": shards.index_sha256,
            "num_images": len(pool.first_pairs),
            "grades": to_json(grades),
            "match_accuracy": accuracy,
        },
    )
    return RetrievalReport(grades=grades, match_accuracy=accuracy, path=path)


def _name(model: TrainedModel, shards: ShardSet, *, num_images: int, captions_per_image: int | None) -> str:
    """What was graded, on what, fit for a file's name."""
    step = model.checkpoint.resolve()
    source = step.name if is_weights_folder(step) else f"{step.parents[1].name}-{step.name}"
    pool = f"{num_images}x{captions_per_image or 'all'}"
    return f"retrieval-{source}-on-{shards.index.stage}-{shards.index.split}-{pool}"


def retrieval_table(report: RetrievalReport) -> Table:
    """Recall both ways with chance beside it, in percent."""
    grades = report.grades
    table = Table(
        title=f"Zero-shot retrieval: {grades.num_images} held-out images, {grades.num_captions} captions",
        title_justify="left",
        caption=f"Match head: {report.match_accuracy:.1%} right, half of the pairs mismatched",
        caption_justify="left",
    )
    table.add_column()
    for column in ("R@1", "R@5", "R@10", "median rank"):
        table.add_column(column, justify="right")
    directions = {"image for a caption": grades.image_retrieval, "caption for an image": grades.text_retrieval}
    for words, grade in directions.items():
        table.add_row(words, *_percent(grade.recall_1, grade.recall_5, grade.recall_10), f"{grade.median_rank:g}")
        table.add_row("  by chance", *_percent(grade.chance_1, grade.chance_5, grade.chance_10), style="dim")
    return table


def _percent(*recalls: float) -> list[str]:
    return [f"{recall:.1f} %" for recall in recalls]
