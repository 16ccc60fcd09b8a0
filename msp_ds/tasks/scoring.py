"""What the scores of several tasks share: averages over the asked positions, in fp32, and topic targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.model.heads import RegionHead
from msp_ds.model.positions import FlatPositions, TargetPositions, gather
from msp_ds.records import IGNORE, Batch, Encoded, MeanMetric
from msp_ds.tasks.task import Context, TaskResult


def full_precision(values: Tensor) -> Tensor:
    """Half-precision values as float32; float32 and float64, in which gradients are checked, stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def asked_rows(task: str, asked: Tensor, context: Context) -> FlatPositions:
    """The places at which bool [B, S] `asked` holds, as a list; on a GPU with the room that the host has counted."""
    return TargetPositions(where=asked, padded_count=context.rooms.get(task)).flat()


def mean_or_zero(values: Tensor, asked: Tensor) -> Tensor:
    """The mean of `values` [N] where bool [N] `asked`, or a zero that still has a gradient where nothing is."""
    return values.masked_fill(~asked, 0.0).sum() / asked.sum().clamp(min=1)


def region_mean(task: str, values: Tensor, asked: Tensor, batch: Batch, context: Context) -> Tensor:
    """The average of the asked regions' losses [N] of a task; by default over their expected number.

    The expected number, 15 % of all regions that may be asked about, is what the released code divides by (its
    1 / 0.15): additive over ranks and equal to the plain mean on average.
    """
    if context.options.region_normaliser == "asked":
        return mean_or_zero(values, asked)
    # Regions of dropped pairs are never asked about: counting them would shrink the loss by the share that is dropped.
    num_regions = (batch.region_mask & counted(task, batch, context)).sum().to(values.dtype)
    return values.masked_fill(~asked, 0.0).sum() / (num_regions * context.options.region_probability).clamp(min=1.0)


def counted(task: str, batch: Batch, context: Context) -> Tensor:
    """bool [B, 1]: the pairs that a task other than matching may ask about."""
    options = context.options
    if options.mismatch_losses_of.get(task, options.mismatch_losses) == "keep":
        return torch.ones_like(batch.corruption.matched)[:, None]
    return batch.corruption.matched[:, None]


def gated_regions(heads: nn.ModuleDict, encoded: Encoded, rows: FlatPositions) -> tuple[RegionHead, Tensor]:
    """The region head and its gated states [N, H] of the N regions that `rows` lists."""
    head = heads["region"]
    if not isinstance(head, RegionHead):
        raise TypeError(f"the head called 'region' is a {type(head).__name__}")
    pair_of_row = rows.index // encoded.regions.shape[1]
    return head, head(gather(encoded.regions, rows), encoded.pair.index_select(0, pair_of_row))


def feature_errors(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    """float32 [N]: `smooth_l1` or `mse` between features [N, F], mean over their width."""
    distance = F.smooth_l1_loss if kind == "smooth_l1" else F.mse_loss
    return distance(predicted, target, reduction="none").mean(1)


def relative_error(errors: Tensor, target: Tensor, yardstick: Tensor, kind: str, asked: Tensor) -> MeanMetric:
    """`errors` [N] as a share of those that answering `yardstick`, [N, F] or [F], would make; target: [N, F].

    asked: bool [N], the rows that count.
    """
    theirs = feature_errors(yardstick.expand_as(target), target, kind)
    ours, theirs = (each.detach().double().masked_fill(~asked, 0.0).sum() for each in (errors, theirs))
    return MeanMetric(ours, theirs)


class Topics(NamedTuple):
    """The topics of B pairs: all of them stand in their texts."""

    pieces: Tensor
    """int64 [B, T]: the pieces of the texts."""
    wanted: Tensor
    """bool [B, T]: the piece is a topic; of several like it, the first."""


def topic_targets(batch: Batch, context: Context, *, attributes: bool) -> Topics:
    """The word pieces that stand both in the text and in the regions' labels (paper eq. 2, 4).

    The text is the original one, before masking; the labels are those of the image actually fed.
    """
    tables, options, pieces = context.tables, context.options, batch.token_ids
    wanted = batch.token_mask & (pieces != tables.cls_id) & (pieces != tables.sep_id)
    # A topic is wanted once, however often it is said.
    wanted = wanted & ~((pieces[:, :, None] == pieces[:, None, :]) & wanted[:, None, :]).tril(-1).any(2)
    table = tables.object_pieces if options.topic_synonyms == "first" else tables.object_pieces_all
    usable = (batch.object_ids != IGNORE) & (batch.object_scores >= options.topic_min_score)
    in_labels = _are_named(pieces, batch.object_ids, table, usable)
    if attributes:
        usable = (batch.attribute_ids != IGNORE) & (batch.attribute_scores >= options.topic_min_score)
        in_labels |= _are_named(pieces, batch.attribute_ids, tables.attribute_pieces, usable)
    wanted = wanted & in_labels
    if options.topic_words == "content":
        wanted = wanted & ~tables.is_function_piece[pieces]
    return Topics(pieces, wanted)


def _are_named(pieces: Tensor, ids: Tensor, table: Tensor, usable: Tensor) -> Tensor:
    """bool [B, T]: whether `pieces` [B, T] are among those of the labels `ids` [B, R] where bool [B, R] `usable`.

    table: int64 [C, P], -1 beyond a name's end.
    """
    named = table[ids.clamp(min=0)].masked_fill(~usable[..., None], -1).flatten(1)
    return (pieces[:, :, None] == named[:, None, :]).any(2)


def detection_metrics(name: str, hits: Tensor, num_found: Tensor, num_wanted: Tensor) -> dict[str, MeanMetric]:
    """Precision, recall and F1 from three counts; each additive."""
    hits, num_found, num_wanted = hits.double(), num_found.double(), num_wanted.double()
    return {
        f"precision/{name}": MeanMetric(hits, num_found),
        f"recall/{name}": MeanMetric(hits, num_wanted),
        f"f1/{name}": MeanMetric(2 * hits, num_found + num_wanted),
    }


def score_topics(name: str, logits: Tensor, topics: Topics, asked: Tensor) -> TaskResult:
    """Binary cross-entropy, mean over the asked pairs and the vocabulary; precision, recall and F1 at one half.

    logits: float32 [B, V]; asked: bool [B]. Elementwise accuracy would be 99.9 % for a head that never names a topic,
    so it is not reported.
    """
    of_topics, wanted = logits.gather(1, topics.pieces), topics.wanted & asked[:, None]
    # log(1 + e^x) for every piece, less x for each topic; from 40 on log(1 + e^x) is x to the last bit.
    losses = F.softplus(logits, threshold=40.0).sum(1) - of_topics.masked_fill(~wanted, 0.0).sum(1)
    return TaskResult(
        loss=mean_or_zero(losses, asked) / logits.shape[1],
        metrics=detection_metrics(
            name,
            hits=((of_topics > 0) & wanted).sum(),
            num_found=((logits > 0) & asked[:, None]).sum(),
            num_wanted=wanted.sum(),
        ),
    )
