"""Retrieval: does the text fit the image, beside three that do not? (Section 4.3; docs/evaluation.md, Fine-tuning.)"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.records import Batch, Encoded, MeanMetric
from msp_ds.stateless_random import RETRIEVAL_QUADRUPLE
from msp_ds.tasks.corruptions import draw_hard_negatives, other_images
from msp_ds.tasks.task import Context, PairSampler, PairSource, SampledPairs, Task, TaskResult

ROWS = 4  # rows of the batch for each pair


def quadruples(pairs: Tensor, table: PairSource, context: Context) -> SampledPairs:
    """Read each caption with its image, then three mismatched pairs: another image, a hard and a random caption.

    The hard caption is one of a hard negative of the image, as in the released code; with `itm_negatives=random` it is
    a second random caption.
    """
    keys, own = table.keys[pairs], table.images[pairs]
    chances = context.draw(keys, RETRIEVAL_QUADRUPLE, 6).unbind(1)
    other_image = other_images(own, chances[0], table.num_images, table.local_images)
    of_hard, of_random = (other_images(own, chance, table.num_images) for chance in chances[1:3])
    if context.options.itm_negatives == "hard" and table.hard_negatives is not None and table.hard_negatives.shape[1]:
        candidates, place, counts = draw_hard_negatives(own, table.hard_negatives, chances[3], context)
        of_hard = torch.where(counts > 0, candidates.gather(1, place[:, None]).squeeze(1), of_hard)
    hard, random = table.some_pair_of(of_hard, chances[4]), table.some_pair_of(of_random, chances[5])
    return SampledPairs(
        pairs=torch.cat((pairs, pairs, hard, random)),
        images=torch.cat((own, other_image, own, own)),
        matched=torch.arange(ROWS * len(pairs)) < len(pairs),
    )


def score(heads: nn.ModuleDict, encoded: Encoded, clean: Batch, corrupted: Batch, context: Context) -> TaskResult:
    """Return twice the two-way cross-entropy, mean over the rows (the released code sums two columns), and accuracy."""
    logits = heads["match"](encoded.pair).float()
    matched = clean.corruption.matched.long()
    return TaskResult(
        loss=2 * F.cross_entropy(logits, matched),
        metrics={"accuracy/retrieval": MeanMetric.of(logits.argmax(1) == matched)},
    )


RETRIEVAL = Task(
    name="retrieval", heads=("match",), score=score, pair_sampler=PairSampler(choose=quadruples, rows=ROWS)
)
