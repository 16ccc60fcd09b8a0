"""The seven losses as the paper and its defended readings state them, one number after the other.

Written from the paper (sections 3.1 to 3.3) and the readings that TaskOptions names, not from msp_ds/tasks, which this
is there to check. A pair has no padding here: what is not there cannot be counted by mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reference.slow_heads import SlowHeads, Vector

from msp_ds.config import TaskOptions

UNLABELLED = -1


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One word piece of a text, [CLS] and [SEP] included."""

    id: int
    """The original one, whatever lies there after masking."""
    special: bool
    masked: bool
    state: Vector


@dataclass(frozen=True, kw_only=True)
class Region:
    """One region of the image that was fed."""

    feature: Vector
    """The original one of this slot, before masking and shuffling."""
    object_id: int
    object_score: float
    attribute_id: int
    attribute_score: float
    masked: bool
    shuffled: bool
    state: Vector


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A text with an image, and what the encoder made of them."""

    pieces: list[Piece]
    regions: list[Region]
    state: Vector
    matched: bool


@dataclass(frozen=True, kw_only=True)
class Names:
    """The word pieces of the label names."""

    objects: list[list[list[int]]]
    """Per class, per synonym, its pieces."""
    attributes: list[list[int]]
    """Per class, its pieces."""
    function_pieces: set[int]
    """No topics where the option says `content`."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A corrupted batch with everything that a loss may depend on."""

    pairs: list[Pair]
    heads: SlowHeads
    names: Names
    options: TaskOptions

    def trained_pairs(self, task: str) -> list[Pair]:
        """Pairs that a task other than matching asks about."""
        how = self.options.mismatch_losses_of.get(task, self.options.mismatch_losses)
        return [pair for pair in self.pairs if pair.matched or how == "keep"]

    def regions(self, task: str) -> Iterator[tuple[Pair, Region]]:
        """Every region of the pairs that the task trains on."""
        for pair in self.trained_pairs(task):
            for region in pair.regions:
                yield pair, region


def cross_entropy(logits: Vector, answer: int) -> float:
    """-log softmax(logits)[answer]."""
    highest = max(logits)
    return highest + math.log(sum(math.exp(one - highest) for one in logits)) - logits[answer]


def binary_cross_entropy(logit: float, answer: bool) -> float:
    """-log sigmoid(logit), or of its complement."""
    wrong = -logit if answer else logit
    return max(wrong, 0.0) + math.log1p(math.exp(-abs(wrong)))


def mean_distance(predicted: Vector, original: Vector, kind: str) -> float:
    """The mean over the feature's width: squares, or Huber's with its corner at 1."""
    total = 0.0
    for p, o in zip(predicted, original, strict=True):
        gap = abs(p - o)
        total += gap * gap if kind == "mse" else (0.5 * gap * gap if gap < 1 else gap - 0.5)
    return total / len(original)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a loss says of a batch."""

    loss: float
    num_targets: int
    """Target pieces, regions or pairs; for topics, how many there were."""


def mean_or_zero(values: list[float]) -> Answer:
    """Without targets the loss is zero."""
    return Answer(loss=sum(values) / len(values) if values else 0.0, num_targets=len(values))


def mlm(question: Question) -> Answer:
    """Masked language modelling: cross entropy, mean over the masked pieces of the batch."""
    return mean_or_zero(
        [
            cross_entropy(question.heads.tokens(piece.state), piece.id)
            for pair in question.trained_pairs("mlm")
            for piece in pair.pieces
            if piece.masked
        ]
    )


def _over_regions(question: Question, task: str, total: float, num_targets: int) -> Answer:
    """A sum over regions, divided by how many masked ones are to be expected, or by how many there are.

    The released code's mean over all regions times 1/0.15 is the first; of batches so small that not even one masked
    region is to be expected, one is.
    """
    if num_targets == 0:
        return Answer(loss=0.0, num_targets=0)
    if question.options.region_normaliser == "asked":
        return Answer(loss=total / num_targets, num_targets=num_targets)
    expected = max(1.0, question.options.region_probability * len(list(question.regions(task))))
    return Answer(loss=total / expected, num_targets=num_targets)


def mrfr(question: Question) -> Answer:
    """Masked region feature regression: the distance to the masked feature."""
    errors = [
        mean_distance(
            question.heads.feature(question.heads.region(region.state, pair.state)),
            region.feature,
            question.options.mrfr_loss,
        )
        for pair, region in question.regions("mrfr")
        if region.masked
    ]
    return _over_regions(question, "mrfr", sum(errors), len(errors))


def moc(question: Question) -> Answer:
    """Masked object classification: object and attribute of masked (or all) regions, by the detector's confidence."""
    total, num_targets = 0.0, 0
    for pair, region in question.regions("moc"):
        if not (region.masked or question.options.moc_target == "all"):
            continue
        num_targets += 1
        state = question.heads.region(region.state, pair.state)
        trusted = question.options.moc_weight == "confidence"
        if region.object_id != UNLABELLED:
            weight = region.object_score if trusted else 1.0
            total += weight * cross_entropy(question.heads.objects(state), region.object_id)
        if region.attribute_id != UNLABELLED:
            weight = region.attribute_score if trusted else 1.0
            total += weight * cross_entropy(question.heads.attributes(state), region.attribute_id)
    return _over_regions(question, "moc", total, num_targets)


def ifrs(question: Question) -> Answer:
    """Image feature random shuffle (eq. 1): the distance to the feature that belongs there, mean over all shuffled."""
    return mean_or_zero(
        [
            mean_distance(
                question.heads.feature(question.heads.region(region.state, pair.state)),
                region.feature,
                question.options.ifrs_loss,
            )
            for pair, region in question.regions("ifrs")
            if region.shuffled
        ]
    )


def topics_of(pair: Pair, names: Names, options: TaskOptions, *, attributes: bool) -> set[int]:
    """The pieces both in_text and seen: W, the text's original pieces, and L, the pieces of the regions' labels."""
    in_text = {piece.id for piece in pair.pieces if not piece.special}
    seen: set[int] = set()
    for region in pair.regions:
        if region.object_id != UNLABELLED and region.object_score >= options.topic_min_score:
            synonyms = names.objects[region.object_id]
            for synonym in synonyms[:1] if options.topic_synonyms == "first" else synonyms:
                seen |= set(synonym)
        if attributes and region.attribute_id != UNLABELLED and region.attribute_score >= options.topic_min_score:
            seen |= set(names.attributes[region.attribute_id])
    both = in_text & seen
    return both - names.function_pieces if options.topic_words == "content" else both


def _topic_loss(question: Question, task: str, *, attributes: bool) -> Answer:
    """Binary cross entropy, mean over pairs and vocabulary (eq. 2 and 4 with the minus that they lack)."""
    errors, num_topics = [], 0
    for pair in question.trained_pairs(task):
        topics = topics_of(pair, question.names, question.options, attributes=attributes)
        num_topics += len(topics)
        for piece, logit in enumerate(question.heads.topics(pair.state)):
            errors.append(binary_cross_entropy(logit, piece in topics))
    return Answer(loss=mean_or_zero(errors).loss, num_targets=num_topics)


def titp(question: Question) -> Answer:
    """Topics of image and text for phrases; attribute names may count."""
    return _topic_loss(question, "titp", attributes=question.options.topic_attributes)


def tits(question: Question) -> Answer:
    """Topics of image and text for sentences: of the pair that was fed, whether it matches or not."""
    return _topic_loss(question, "tits", attributes=False)


def itm_hs(question: Question) -> Answer:
    """Matching: two-way cross entropy over all pairs, index 1 for those that match."""
    return mean_or_zero([cross_entropy(question.heads.match(pair.state), int(pair.matched)) for pair in question.pairs])


SLOW_LOSSES: dict[str, Callable[[Question], Answer]] = {
    "mlm": mlm,
    "mrfr": mrfr,
    "moc": moc,
    "ifrs": ifrs,
    "titp": titp,
    "tits": tits,
    "itm_hs": itm_hs,
}
"""By the name of the task."""
