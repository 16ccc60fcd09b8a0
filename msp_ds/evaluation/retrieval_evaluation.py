"""Evaluation of image-text retrieval: score the pairs that have no score yet, cache the scores, grade them."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from msp_ds.config import to_json, write_json
from msp_ds.data.format.shards import ShardSet
from msp_ds.data.loading.reader import Reader
from msp_ds.downstream.intervals import Interval, Resampling
from msp_ds.downstream.retrieval import RETRIEVAL
from msp_ds.downstream.retrieval_grades import (
    DirectionGrades,
    RetrievalGrades,
    RetrievalProtocol,
    grade_retrieval,
    recall_intervals,
    require_captions,
)
from msp_ds.errors import writing
from msp_ds.evaluation.precision import Precision, warn_if_slow
from msp_ds.evaluation.ranking import PairScorer, Pool, choose_pool, match_accuracy
from msp_ds.evaluation.score_cache import ScoreCache, Scoring, ScoringPart, pool_sha256, weights_sha256
from msp_ds.evaluation.score_matrix import ScoreMatrix
from msp_ds.model.heads import MatchHead
from msp_ds.progress import bars
from msp_ds.terminal import Table
from msp_ds.training.checkpointing.inference import TrainedModel
from msp_ds.training.checkpointing.weights_folder import is_weights_folder

log = logging.getLogger(__name__)

FIRST_CAPTION_NOTE = "text retrieval ranks the first caption of each image alone, as the released code: not standard"


@dataclass(frozen=True, kw_only=True)
class RetrievalReport:
    """The results of a retrieval evaluation."""

    grades: RetrievalGrades
    intervals: dict[str, Interval]
    """95 % intervals, in percent or ranks: `ir/recall_1` ... `tr/mean_rank`."""
    match_accuracy: float  # accuracy of the match head, with half of the pairs mismatched
    precision: Precision
    title: str  # `Zero-shot retrieval`, or `Retrieval` of a model that was fine-tuned for it
    path: Path  # the JSON file with these numbers; the score matrix lies beside it as .npz


@dataclass(frozen=True, kw_only=True)
class RetrievalPlan:
    """How to score and grade."""

    protocol: RetrievalProtocol = "standard"
    precision: Precision = "fp32"
    part: ScoringPart = field(default_factory=ScoringPart)  # the part of the work that this process does
    resampling: Resampling = field(default_factory=Resampling)


@dataclass(frozen=True, kw_only=True)
class ScoredPool:
    """The scores of a pool so far, with what their grading needs."""

    model: TrainedModel
    reader: Reader
    pool: Pool
    captions_per_image: int | None
    precision: Precision
    kept: ScoreCache
    stem: Path  # path of the files to write, without their endings


PLAIN = RetrievalPlan()  # all of the work, in fp32, by the standard protocol


def score_retrieval(
    model: TrainedModel,
    shards: ShardSet,
    *,
    num_images: int | None,
    captions_per_image: int | None,
    out: Path,
    plan: RetrievalPlan = PLAIN,
) -> ScoredPool:
    """Score the captions of this part against all images, and cache the scores in a folder below `out`.

    num_images: the number of images from the start of the set, None for all. captions_per_image: the number of
    captions that each image must have, None for all that it has.
    Raises: InputError when the folder cannot be written or holds other scores, and when the set has too few images or
    captions.
    """
    with writing(out, fix="name another folder with --out"):
        out.mkdir(parents=True, exist_ok=True)
    reader = Reader(shards)
    pool = choose_pool(reader, num_images=num_images, captions_per_image=captions_per_image)
    if captions_per_image is not None:
        require_captions(
            pool.image_of_caption,
            num_images=len(pool.first_pairs),
            each=captions_per_image,
            image_ids=_image_ids(reader, pool),
        )
    scorer = _scorer(model, plan)
    name = _name(model, shards, num_images=len(pool.first_pairs), captions_per_image=captions_per_image)
    stem = out / (name if scorer.precision == "fp32" else f"{name}-{scorer.precision}")
    scoring = Scoring(
        weights_sha256=weights_sha256(scorer.backbone, scorer.head),
        pool_sha256=pool_sha256(reader, pool),
        precision=scorer.precision,
        num_images=len(pool.first_pairs),
        num_captions=len(pool.captions),
    )
    kept = ScoreCache(stem.with_name(f"{stem.name}-scores"), scoring)
    _score(scorer, reader, pool, kept, plan.part)
    return ScoredPool(
        model=model,
        reader=reader,
        pool=pool,
        captions_per_image=captions_per_image,
        precision=scorer.precision,
        kept=kept,
        stem=stem,
    )


def _scorer(model: TrainedModel, plan: RetrievalPlan) -> PairScorer:
    head = model.heads["match"]
    if not isinstance(head, MatchHead):
        raise TypeError(f"the head called 'match' is a {type(head).__name__}")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", plan.part.index % torch.cuda.device_count())
    warn_if_slow(plan.precision, device)
    return PairScorer(model.backbone.to(device), head.to(device), precision=plan.precision)


def _score(scorer: PairScorer, reader: Reader, pool: Pool, kept: ScoreCache, part: ScoringPart) -> None:
    """Score the blocks of a part that have no scores yet."""
    mine = scorer.blocks(reader, pool)[part.index :: part.count]
    todo = [columns for columns in mine if kept.missing(columns)]
    if 0 < len(todo) < len(mine):
        log.info("resuming in %s: %d of %d blocks are scored", kept.folder, len(mine) - len(todo), len(mine))
    if not todo:
        return
    label = "retrieval" if part.count == 1 else f"retrieval {part}"
    with bars() as progress:
        progress.start(label, sum(len(columns) for columns in todo) * len(pool.first_pairs))
        for columns, margins in scorer.score_blocks(reader, pool, todo, advance=progress.advance):
            kept.keep(columns, margins)
    kept.flush()


def report_retrieval(scored: ScoredPool, plan: RetrievalPlan = PLAIN) -> RetrievalReport:
    """Grade the scores of a pool; write the grades as JSON and the scores as .npz.

    The names of the files hold what was graded: retrieval-3-sentence-step-00000012-on-sentence-val-300x1.json.
    Raises: InputError when scores are missing.
    """
    reader, pool, scores = scored.reader, scored.pool, scored.kept.scores()
    grades = grade_retrieval(scores, pool.image_of_caption, protocol=plan.protocol)
    with bars("intervals", is_drawn=False):
        intervals = recall_intervals(scores, pool.image_of_caption, protocol=plan.protocol, resampling=plan.resampling)
    ending = "" if plan.protocol == "standard" else f"-{plan.protocol}"
    report = RetrievalReport(
        grades=grades,
        intervals=intervals,
        match_accuracy=match_accuracy(scores, pool.image_of_caption),
        precision=scored.precision,
        title=_title(scored.model),
        path=scored.stem.with_name(f"{scored.stem.name}{ending}.json"),
    )
    matrix = ScoreMatrix(
        scores=scores,
        image_ids=tuple(_image_ids(reader, pool)),
        caption_keys=reader.keys[pool.captions],
        image_of_caption=pool.image_of_caption,
    )
    matrix.write(scored.stem.with_name(f"{scored.stem.name}.npz"))
    write_json(report.path, _facts(scored, report))
    return report


def _title(model: TrainedModel) -> str:
    return "Retrieval" if model.curriculum == RETRIEVAL.name else "Zero-shot retrieval"


def _facts(scored: ScoredPool, report: RetrievalReport) -> dict[str, object]:
    note = "" if report.grades.protocol == "standard" else f"; {FIRST_CAPTION_NOTE}"
    shards = scored.reader.shards
    return {
        "task": report.title.lower(),
        "protocol": f"{scored.captions_per_image or 'all'} captions an image, ties against us{note}",
        "precision": report.precision,
        "checkpoint": str(scored.model.checkpoint),
        "shards": str(shards.path),
        "index_sha256": shards.index_sha256,
        "num_images": report.grades.num_images,
        "grades": to_json(report.grades),
        "intervals": to_json(report.intervals),
        "match_accuracy": report.match_accuracy,
    }


def _image_ids(reader: Reader, pool: Pool) -> list[str]:
    found: list[str] = np.array(reader.shards.keys)[reader.images[pool.first_pairs].numpy()].tolist()
    return found


def _name(model: TrainedModel, shards: ShardSet, *, num_images: int, captions_per_image: int | None) -> str:
    """File name of an evaluation: the checkpoint, the set and the pool."""
    step = model.checkpoint.resolve()
    source = step.name if is_weights_folder(step) else f"{step.parents[1].name}-{step.name}"
    pool = f"{num_images}x{captions_per_image or 'all'}"
    return f"retrieval-{source}-on-{shards.index.stage}-{shards.index.split}-{pool}"


def retrieval_table(report: RetrievalReport) -> Table:
    """Return a table of the recalls in percent with 95 % intervals, and those of chance below."""
    grades = report.grades
    notes = [f"Match head: {report.match_accuracy:.1%} right, half of the pairs mismatched. In {report.precision}"]
    notes += [FIRST_CAPTION_NOTE[0].upper() + FIRST_CAPTION_NOTE[1:]] * (grades.protocol == "first-caption")
    table = Table(
        title=f"{report.title}: {grades.num_images} held-out images, {grades.num_captions} captions",
        caption="\n".join(notes),
    )
    table.add_column()
    for column in ("R@1", "R@5", "R@10", "median rank"):
        table.add_column(column, justify="right")
    directions: dict[str, tuple[str, DirectionGrades]] = {
        "ir": ("image for a caption", grades.image_retrieval),
        "tr": ("caption for an image", grades.text_retrieval),
    }
    for key, (words, grade) in directions.items():
        recalls = _percent(grade.recall_1, grade.recall_5, grade.recall_10)
        table.add_row(words, *recalls, f"{grade.median_rank:g}")
        names = ("recall_1", "recall_5", "recall_10", "median_rank")
        ends = [report.intervals[f"{key}/{name}"] for name in names]
        *recall_ends, ranks = ends
        between = [f"{low:.1f} - {high:.1f}" for low, high in recall_ends]
        table.add_row("  95 %", *between, f"{ranks.low:g} - {ranks.high:g}", style="dim")
        table.add_row("  by chance", *_percent(grade.chance_1, grade.chance_5, grade.chance_10), style="dim")
    return table


def _percent(*recalls: float) -> list[str]:
    return [f"{recall:.1f} %" for recall in recalls]
