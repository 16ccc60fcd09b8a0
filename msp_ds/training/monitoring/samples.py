"""What the model says of a few held-out pairs: hidden words and objects, topics, whether they match, where it looks.

B pairs, T text tokens, R regions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msp_ds.data.format.shards import read_record
from msp_ds.data.format.text import load_labels
from msp_ds.data.format.vocabulary import read_vocabulary
from msp_ds.data.loading.reader import Reader
from msp_ds.model.attention_weights import encode_and_look
from msp_ds.model.positions import TargetPositions
from msp_ds.records import IGNORE, Batch, Encoded
from msp_ds.stateless_random import RANDOM_REGION
from msp_ds.tasks.scoring import full_precision, gated_regions, topic_targets
from msp_ds.tasks.task import Context, Task, corrupt, num_random_regions
from msp_ds.training.pretraining_model import PretrainingModel

_GUESSES = 3
_TOPICS = 6

Guess = tuple[str, float]
"""A word or a label, and the chance that the model gives it."""


@dataclass(frozen=True, kw_only=True)
class MaskedPrediction:
    """One hidden word or object."""

    place: int
    """Of the word in the text or the region in the image, from 0."""
    right: str
    guesses: tuple[Guess, ...]
    """The likeliest, best first."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A pair and what the model says of it; what the stage has no head for is left empty."""

    image_id: str
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    pieces: tuple[str, ...]
    """Of the text as it was written, [CLS] and [SEP] included."""
    boxes: np.ndarray
    """float32 [R, 4]: x0 y0 x1 y1 in pixels."""
    labels: tuple[str, ...]
    """What the detector calls each region, empty without a label."""
    words: tuple[MaskedPrediction, ...]
    objects: tuple[MaskedPrediction, ...]
    said_topics: tuple[Guess, ...]
    right_topics: tuple[str, ...]
    match: float | None
    """The chance that text and image match, which they do; None without a match head."""
    looks: np.ndarray
    """float32 [T, R]: the share of its look that each piece gives to each region, in the last layer."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the numbers of a shard set are called."""

    pieces: Sequence[str]
    objects: Sequence[str]

    @classmethod
    def of(cls, reader: Reader) -> Names:
        """Those of the set that a reader reads."""
        labels = load_labels(reader.shards.objects_path, may_be_empty=True)
        pieces = read_vocabulary(reader.shards.vocab_path).pieces
        return cls(pieces=pieces, objects=[label[0] for label in labels])


def spread_pairs(reader: Reader, count: int) -> Tensor:
    """int64 [count or fewer]: pairs evenly over the set, which hardly share an image."""
    num_pairs = len(reader.keys)
    return torch.arange(min(count, num_pairs)) * num_pairs // min(count, max(num_pairs, 1))


@torch.no_grad()
def take_samples(
    model: PretrainingModel, reader: Reader, pairs: Tensor, *, tasks: Sequence[Task], epoch: int, names: Names
) -> list[Sample]:
    """What a model in evaluation mode says of int64 [B] `pairs`, each with its own image, corrupted as in `epoch`.

    Under ZeRO 3 every rank must call it.
    """
    device = model.context.feature_mean.device
    context = dataclasses.replace(model.context, epoch=epoch)
    clean = _read(reader, pairs, tasks, context).to(device)
    corrupted = corrupt(clean, tasks, context)
    encoded, looks = encode_and_look(model.backbone, corrupted)
    words = _words(model, encoded, clean, corrupted, names)
    objects = _objects(model, encoded, clean, corrupted, names)
    topics = _topics(model, encoded, clean, context, names)
    match = _match(model, encoded)
    samples = []
    for row, pair in enumerate(pairs.tolist()):
        record, _ = read_record(reader.shards, int(reader.images[pair]))
        num_tokens, num_regions = int(clean.token_mask[row].sum()), len(record.boxes)
        samples.append(
            Sample(
                image_id=record.image_id,
                width=record.width,
                height=record.height,
                pieces=tuple(names.pieces[piece] for piece in clean.token_ids[row, :num_tokens].tolist()),
                boxes=record.boxes,
                labels=tuple(_label(names, number) for number in record.object_ids.tolist()),
                words=tuple(words[row]),
                objects=tuple(objects[row]),
                said_topics=topics[row][0],
                right_topics=topics[row][1],
                match=match[row],
                looks=looks[row, :num_tokens, :num_regions].cpu().numpy(),
            )
        )
    return samples


def _read(reader: Reader, pairs: Tensor, tasks: Sequence[Task], context: Context) -> Batch:
    images, matched = reader.images[pairs], torch.ones(len(pairs), dtype=torch.bool)
    random_regions = context.draw(reader.keys[pairs], RANDOM_REGION, 2 * num_random_regions(tasks))
    return reader.read(pairs, images=images, matched=matched, random_regions=random_regions)


def _label(names: Names, number: int) -> str:
    return "" if number == IGNORE else names.objects[number]


def _questions(
    asked: Tensor, logits: Tensor, right: Tensor, *, called: Sequence[str], batch_size: int
) -> list[list[MaskedPrediction]]:
    """Of each pair. asked: bool [B, T or R]; logits: [N, ...]; right: int64 [N], IGNORE where nobody knows."""
    found: list[list[MaskedPrediction]] = [[] for _ in range(batch_size)]
    chances, best = full_precision(logits).softmax(-1).topk(min(_GUESSES, logits.shape[-1]))
    rows = zip(asked.nonzero().tolist(), right.tolist(), best.tolist(), chances.tolist(), strict=True)
    for (row, place), answer, numbers, shares in rows:
        if answer != IGNORE:
            guesses = tuple((called[number], share) for number, share in zip(numbers, shares, strict=True))
            found[row].append(MaskedPrediction(place=place, right=called[answer], guesses=guesses))
    return found


def _words(
    model: PretrainingModel, encoded: Encoded, clean: Batch, corrupted: Batch, names: Names
) -> list[list[MaskedPrediction]]:
    asked = corrupted.corruption.masked_tokens
    if "token" not in model.heads or not asked.any():
        return [[] for _ in range(len(asked))]
    logits = model.heads["token"](encoded.text[asked])
    return _questions(asked, logits, clean.token_ids[asked], called=names.pieces, batch_size=len(asked))


def _objects(
    model: PretrainingModel, encoded: Encoded, clean: Batch, corrupted: Batch, names: Names
) -> list[list[MaskedPrediction]]:
    asked = corrupted.corruption.masked_regions
    if "region" not in model.heads or not names.objects or not asked.any():
        return [[] for _ in range(len(asked))]
    head, gated = gated_regions(model.heads, encoded, TargetPositions(where=asked).flat())
    logits = head.objects(gated)
    return _questions(asked, logits, clean.object_ids[asked], called=names.objects, batch_size=len(asked))


def _topics(
    model: PretrainingModel, encoded: Encoded, clean: Batch, context: Context, names: Names
) -> list[tuple[tuple[Guess, ...], tuple[str, ...]]]:
    """Of each pair the likeliest topics that the model would name, and the right ones: object labels in the text."""
    if "topic" not in model.heads:
        return [((), ())] * len(clean.keys)
    chances, best = full_precision(model.heads["topic"](encoded.pair)).sigmoid().topk(_TOPICS)
    right = topic_targets(clean, context, attributes=False)
    found = []
    for row in range(len(clean.keys)):
        ranked = zip(best[row].tolist(), chances[row].tolist(), strict=True)
        said = tuple((names.pieces[number], share) for number, share in ranked if share > 0.5)
        found.append((said, tuple(names.pieces[piece] for piece in right.pieces[row][right.wanted[row]].tolist())))
    return found


def _match(model: PretrainingModel, encoded: Encoded) -> list[Any]:
    if "match" not in model.heads:
        return [None] * len(encoded.pair)
    return full_precision(model.heads["match"](encoded.pair)).softmax(-1)[:, 1].tolist()
