"""A model's predictions on a few held-out pairs: masked words and objects, topics, match and attention.

B pairs, T text tokens, R regions.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from msp_ds.data.format.shards import read_record
from msp_ds.data.format.text import load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.data.loading.reader import Reader
from msp_ds.model.attention_weights import encode_with_attention
from msp_ds.model.positions import TargetPositions
from msp_ds.records import IGNORE, Batch, Encoded
from msp_ds.stateless_random import RANDOM_REGION
from msp_ds.tasks.scoring import full_precision, gated_regions
from msp_ds.tasks.task import Context, Task, corrupt, num_random_regions
from msp_ds.tasks.topics import topic_targets
from msp_ds.training.pretraining_model import PretrainingModel

_GUESSES = 3
_TOPICS = 6

Guess = tuple[str, float]  # a word or a label, and its probability


@dataclass(frozen=True, kw_only=True)
class MaskedPrediction:
    """The prediction of one masked word or object."""

    position: int  # of the word in the text or the region in the image, from 0
    right: str
    guesses: tuple[Guess, ...]  # the most probable, best first

    @property
    def is_right(self) -> bool:
        """Whether the best guess is right."""
        return bool(self.guesses) and self.guesses[0][0] == self.right


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A pair and the predictions on it; predictions of heads that the stage lacks are empty."""

    image_id: str
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    pieces: tuple[str, ...]
    """Of the unmasked text, with [CLS] and [SEP]."""
    boxes: np.ndarray
    """float32 [R, 4]: x0 y0 x1 y1 in pixels."""
    labels: tuple[str, ...]
    """The detector's label of each region, empty without one."""
    words: tuple[MaskedPrediction, ...]
    objects: tuple[MaskedPrediction, ...]
    predicted_topics: tuple[Guess, ...]
    right_topics: tuple[str, ...]
    match: float | None
    """Probability that text and image match (they do); None without a match head."""
    attention: np.ndarray
    """float32 [T, R]: attention of each piece to each region in the last layer."""


def join_pieces(sample: Sample, *, hidden: str, shown: Callable[[str], str] = str) -> str:
    """The text without [CLS] and [SEP]. hidden: format of masked pieces, as `[{}]`. shown: escapes a piece."""
    masked = {word.position for word in sample.words}
    text = ""
    for position, piece in enumerate(sample.pieces[1:-1], start=1):
        bare = shown(piece.removeprefix("##"))
        text += ("" if piece.startswith("##") else " ") + (hidden.format(bare) if position in masked else bare)
    return text.strip()


@dataclass(frozen=True, kw_only=True)
class Names:
    """The word pieces and object labels of a shard set by their ids."""

    pieces: Sequence[str]
    objects: Sequence[str]

    @classmethod
    def of(cls, reader: Reader) -> Self:
        """The names of a reader's set."""
        labels = load_labels(reader.shards.objects_path, may_be_empty=True)
        pieces = read_vocabulary(reader.shards.vocab_path).pieces
        return cls(pieces=pieces, objects=[label[0] for label in labels])


def spread_pairs(reader: Reader, count: int) -> Tensor:
    """int64 [count or fewer]: pairs at equal distances in the set, so that few share an image."""
    num_pairs = len(reader.keys)
    return torch.arange(min(count, num_pairs)) * num_pairs // min(count, max(num_pairs, 1))


@torch.no_grad()
def predict_samples(
    model: PretrainingModel, reader: Reader, pairs: Tensor, *, tasks: Sequence[Task], epoch: int, names: Names
) -> list[Sample]:
    """Predictions of a model in evaluation mode on int64 [B] `pairs`, each with its own image, corrupted as in `epoch`.

    Under ZeRO 3 every rank must call it.
    """
    context = dataclasses.replace(model.context, epoch=epoch)
    random_regions = context.draw(reader.keys[pairs], RANDOM_REGION, 2 * num_random_regions(tasks))
    matched = torch.ones(len(pairs), dtype=torch.bool)
    clean = reader.read(pairs, images=reader.images[pairs], matched=matched, random_regions=random_regions)
    clean = clean.to(model.context.feature_mean.device)
    corrupted = corrupt(clean, tasks, context)
    encoded, attention = encode_with_attention(model.backbone, corrupted)
    words, objects = _masked(model, encoded, clean, corrupted, names)
    topics = _topics(model, encoded, clean, context, names)
    match = _match(model, encoded)
    samples = []
    for row, pair in enumerate(pairs.tolist()):
        record, _ = read_record(reader.shards, int(reader.images[pair]))
        num_tokens, num_regions = int(clean.token_mask[row].sum()), len(record.boxes)
        labels = ("" if number == IGNORE else names.objects[number] for number in record.object_ids.tolist())
        samples.append(
            Sample(
                image_id=record.image_id,
                width=record.width,
                height=record.height,
                pieces=tuple(names.pieces[piece] for piece in clean.token_ids[row, :num_tokens].tolist()),
                boxes=record.boxes,
                labels=tuple(labels),
                words=tuple(words[row]),
                objects=tuple(objects[row]),
                predicted_topics=topics[row][0],
                right_topics=topics[row][1],
                match=match[row],
                attention=attention[row, :num_tokens, :num_regions].cpu().numpy(),
            )
        )
    return samples


def _masked_predictions(
    mask: Tensor, logits: Tensor, right: Tensor, names: Sequence[str]
) -> list[list[MaskedPrediction]]:
    """The predictions of each pair.

    mask: bool [B, T or R], the target positions. logits: [N, ...]. right: int64 [N], IGNORE where it is unknown.
    """
    found: list[list[MaskedPrediction]] = [[] for _ in range(len(mask))]
    probabilities, best = full_precision(logits).softmax(-1).topk(min(_GUESSES, logits.shape[-1]))
    targets = zip(mask.nonzero().tolist(), right.tolist(), best.tolist(), probabilities.tolist(), strict=True)
    for (row, position), answer, numbers, values in targets:
        if answer != IGNORE:
            guesses = tuple((names[number], value) for number, value in zip(numbers, values, strict=True))
            found[row].append(MaskedPrediction(position=position, right=names[answer], guesses=guesses))
    return found


def _masked(
    model: PretrainingModel, encoded: Encoded, clean: Batch, corrupted: Batch, names: Names
) -> tuple[list[list[MaskedPrediction]], list[list[MaskedPrediction]]]:
    """The predictions of the masked words and of the masked objects of each pair."""
    tokens, regions = corrupted.corruption.masked_tokens, corrupted.corruption.masked_regions
    words: list[list[MaskedPrediction]] = [[] for _ in range(len(tokens))]
    objects = words
    if "token" in model.heads:
        logits = model.heads["token"](encoded.text[tokens])
        words = _masked_predictions(tokens, logits, clean.token_ids[tokens], names.pieces)
    if "region" in model.heads and names.objects:
        head, gated = gated_regions(model.heads, encoded, TargetPositions(mask=regions).flat())
        objects = _masked_predictions(regions, head.objects(gated), clean.object_ids[regions], names.objects)
    return words, objects


def _topics(
    model: PretrainingModel, encoded: Encoded, clean: Batch, context: Context, names: Names
) -> list[tuple[tuple[Guess, ...], tuple[str, ...]]]:
    """The predicted and the right topics of each pair; topics are object labels that occur in the text."""
    if "topic" not in model.heads:
        return [((), ())] * len(clean.keys)
    probabilities, best = full_precision(model.heads["topic"](encoded.pair)).sigmoid().topk(_TOPICS)
    right = topic_targets(clean, context, attributes=False)
    found = []
    for row in range(len(clean.keys)):
        ranked = zip(best[row].tolist(), probabilities[row].tolist(), strict=True)
        predicted = tuple((names.pieces[number], probability) for number, probability in ranked if probability > 0.5)
        found.append((predicted, tuple(names.pieces[piece] for piece in right.pieces[row][right.wanted[row]].tolist())))
    return found


def _match(model: PretrainingModel, encoded: Encoded) -> list[Any]:
    if "match" not in model.heads:
        return [None] * len(encoded.pair)
    return full_precision(model.heads["match"](encoded.pair)).softmax(-1)[:, 1].tolist()
