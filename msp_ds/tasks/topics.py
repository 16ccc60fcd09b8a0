"""Topics: word pieces that stand both in a pair's text and in the labels of its regions. TITP and TITS predict them.

Paper equations 2 and 4, which are the same:

    L = -1/V sum_i [y_i log s_i + (1 - y_i) log(1 - s_i)]

s_i is the predicted probability that piece i of the vocabulary is a topic, y_i is 1 if it is one and 0 otherwise.

B pairs of a batch, T text tokens, R regions, V vocabulary, C labels, P word pieces of a label's name.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from msp_ds.records import IGNORE, Batch, MeanMetric
from msp_ds.tasks.scoring import mean_or_zero
from msp_ds.tasks.task import Context, TaskResult


class Topics(NamedTuple):
    """The topics of B pairs."""

    pieces: Tensor
    """int64 [B, T]: the pieces of the texts."""
    wanted: Tensor
    """bool [B, T]: the piece is a topic; of equal pieces, only the first."""


def topic_targets(batch: Batch, context: Context, *, attributes: bool) -> Topics:
    """Find the pieces of each text that occur in the names of its regions' objects and, on request, attributes.

    `batch` is the clean one: its texts are not masked yet. Its labels are those of the image that the model sees.
    """
    tables, options, pieces = context.tables, context.options, batch.token_ids
    wanted = batch.token_mask & (pieces != tables.cls_id) & (pieces != tables.sep_id)
    # A piece that occurs more than once is one topic.
    wanted = wanted & ~((pieces[:, :, None] == pieces[:, None, :]) & wanted[:, None, :]).tril(-1).any(2)
    table = tables.object_pieces if options.topic_synonyms == "first" else tables.object_pieces_all
    usable = (batch.object_ids != IGNORE) & (batch.object_scores >= options.topic_min_score)
    in_labels = _in_names(pieces, batch.object_ids, table, usable)
    if attributes:
        usable = (batch.attribute_ids != IGNORE) & (batch.attribute_scores >= options.topic_min_score)
        in_labels |= _in_names(pieces, batch.attribute_ids, tables.attribute_pieces, usable)
    wanted = wanted & in_labels
    if options.topic_words == "content":
        wanted = wanted & ~tables.is_function_piece[pieces]
    return Topics(pieces, wanted)


def _in_names(pieces: Tensor, ids: Tensor, table: Tensor, usable: Tensor) -> Tensor:
    """bool [B, T]: whether `pieces` [B, T] occur in the names of the labels `ids` [B, R] where bool [B, R] `usable`.

    table: int64 [C, P], -1 beyond a name's end.
    """
    names = table[ids.clamp(min=0)].masked_fill(~usable[..., None], -1).flatten(1)
    return (pieces[:, :, None] == names[:, None, :]).any(2)


def score_topics(name: str, logits: Tensor, topics: Topics, is_trained: Tensor) -> TaskResult:
    """Binary cross-entropy, mean over the vocabulary and the trained pairs; precision, recall and F1 at one half.

    logits: float32 [B, V]; is_trained: bool [B]. There is no elementwise accuracy: a head that never predicts a topic
    would reach 99.9 %.
    """
    topic_logits, wanted = logits.gather(1, topics.pieces), topics.wanted & is_trained[:, None]
    # log(1 + e^x) for every piece, less x for each topic; from 40 on log(1 + e^x) is x to the last bit.
    losses = F.softplus(logits, threshold=40.0).sum(1) - topic_logits.masked_fill(~wanted, 0.0).sum(1)
    return TaskResult(
        loss=mean_or_zero(losses, is_trained) / logits.shape[1],
        metrics=detection_metrics(
            name,
            hits=((topic_logits > 0) & wanted).sum(),
            num_found=((logits > 0) & is_trained[:, None]).sum(),
            num_wanted=wanted.sum(),
        ),
    )


def detection_metrics(name: str, hits: Tensor, num_found: Tensor, num_wanted: Tensor) -> dict[str, MeanMetric]:
    """Return precision, recall and F1 from three counts, each as an additive metric."""
    hits, num_found, num_wanted = hits.double(), num_found.double(), num_wanted.double()
    return {
        f"precision/{name}": MeanMetric(hits, num_found),
        f"recall/{name}": MeanMetric(hits, num_wanted),
        f"f1/{name}": MeanMetric(2 * hits, num_found + num_wanted),
    }
