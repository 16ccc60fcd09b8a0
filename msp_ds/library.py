"""The Python interface: a trained model and the images of a shard set, one line for each question.

    model = msp_ds.load("runs/tps", shards="shards/sentence/val")
    image = model.image_ids[0]
    model.score(["a red bus near a tree"], [image])        # float32 [1, 1]: above 0 they match
    model.embed(["a red bus near a tree"], [image]).pair   # float32 [1, H]
    model.captions(image, top=3), model.search("a red bus near a tree", top=3)
    msp_ds.load("runs/vqa", shards="shards/vqa/val").answer("what color is the bus ?", image)

M texts, N images, T text tokens, R regions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.format.text import FIRST_WORD_POSITION
from msp_ds.data.loading.reader import Reader
from msp_ds.downstream.vqa import answer_logits
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.evaluation.matching import Matcher, Texts, image_states, read_pairs, texts_of, texts_of_set
from msp_ds.model.attention_weights import encode_with_attention
from msp_ds.model.heads import AnswerHead, MatchHead
from msp_ds.preparation.verifying.inspection import samples_of
from msp_ds.records import Encoded
from msp_ds.training.checkpointing.inference import TrainedModel, load_trained

Advance = Callable[[int], None]
Head = TypeVar("Head", bound=nn.Module)

_TRAINED_BY = {
    "match": "the sentence stage trains it (msp-ds train --curriculum s), or msp-ds finetune --task retrieval",
    "answer": "msp-ds finetune --task vqa, or gqa, trains it, for questions about one image",
}


def _no_progress(done: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A text and an image with their score by the match head."""

    text: str
    image_id: str
    score: float
    """The margin z1 - z0: above 0 they match, and larger is better."""
    is_own: bool
    """Whether the text is one of the image's own texts in the set."""

    @property
    def probability(self) -> float:
        """Probability of a match, by the head."""
        return float(torch.sigmoid(torch.tensor(self.score, dtype=torch.float64)))


@dataclass(frozen=True, kw_only=True)
class WordAttention:
    """Attention of the words of a text on the regions of an image, in the last layer, mean over the heads."""

    words: tuple[str, ...]
    """W words, cut at the maximal text length of the model."""
    weights: Tensor
    """float32 [W, R]: attention weight of each word on each region, mean over the word's pieces. A row sums to less
    than one: the rest lies on the whole image, or in a single-stream encoder also on the text."""


class Model:
    """A trained model with the images of a set, in evaluation mode.

    Each `advance` argument is called with the number of items that were just finished.
    """

    def __init__(self, trained: TrainedModel, shards: ShardSet, *, device: str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.checkpoint = trained.checkpoint
        self.config = trained.config
        self.backbone = trained.backbone.to(self.device).eval()
        self.heads = trained.heads.to(self.device).eval()
        self.shards = shards
        self.reader = Reader(shards)
        self.pieces = shards.word_pieces()

    @classmethod
    def load(cls, checkpoint: str | PathLike[str], *, shards: str | PathLike[str], device: str | None = None) -> Model:
        """Load a model; `msp_ds.load` calls this."""
        opened = open_set(Path(shards))
        trained = load_trained(Path(checkpoint), shards=opened, needed_heads=(), preset=None)
        return cls(trained, opened, device=device)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the images of the set, in its order: `coco-391895`."""
        return self.shards.keys

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that `answer` chooses from. Raises: ShardError if the set holds no questions."""
        if self.shards.questions is None:
            raise ShardError(
                f"{self.shards.path} holds no answers to choose from; use the shards of the benchmark that "
                "the model was fine-tuned on, such as shards/vqa/val"
            )
        return self.shards.questions.answers

    def row_of(self, image_id: str) -> int:
        """Return the row of an image in the set. Raises: InputError for an unknown image."""
        if image_id not in self._rows:
            known = ", ".join(self.image_ids[:3])
            raise InputError(
                f"{self.shards.path} holds no image {image_id!r}; it has {len(self.image_ids):,}, such as {known}"
            )
        return self._rows[image_id]

    @torch.no_grad()
    def embed(self, texts: Sequence[str], image_ids: Sequence[str]) -> Encoded:
        """Encode B pairs of a text and an image; return float32 states on the CPU.

        `.pair` [B, H] represents the pair, `.text` [B, T, H] its tokens and `.regions` [B, R, H] its regions.
        """
        if len(texts) != len(image_ids):
            raise InputError(
                f"{len(texts)} texts and {len(image_ids)} images make no pairs; give one image to each text"
            )
        batch = read_pairs(self.reader, self._texts(texts), self._rows_of(image_ids))
        encoded = self.backbone(batch.to(self.device))
        return Encoded(text=encoded.text.cpu(), regions=encoded.regions.cpu(), pair=encoded.pair.cpu())

    def score(self, texts: Sequence[str], image_ids: Sequence[str], *, advance: Advance = _no_progress) -> Tensor:
        """Return float32 [M, N] scores of each text with each image; above 0 they match."""
        return self._matcher.scores(self._texts(texts), self._rows_of(image_ids), advance=advance)

    def search(self, text: str, *, top: int = 10, advance: Advance = _no_progress) -> list[Match]:
        """Return the `top` images of the set that fit a text best, best first."""
        rows = torch.arange(len(self.image_ids))
        scores = self._matcher.scores(self._texts([text]), rows, advance=advance)[0]
        best = best_first(scores, top)
        written = [sample["texts"] for sample in samples_of(self.shards, best)]
        return [
            Match(text=text, image_id=self.image_ids[row], score=float(scores[row]), is_own=text in texts)
            for row, texts in zip(best, written, strict=True)
        ]

    def captions(
        self, image_id: str, *, pool: Sequence[str] = (), top: int = 10, advance: Advance = _no_progress
    ) -> list[Match]:
        """Return the `top` texts that fit an image best, best first, from `pool` or from all texts of the set."""
        row = self.row_of(image_id)
        own = set(samples_of(self.shards, [row])[0]["texts"])
        texts = self._texts(pool) if pool else texts_of_set(self.reader, torch.arange(len(self.reader.keys)))
        scores = self._matcher.scores(texts, torch.tensor([row]), advance=advance)[:, 0]
        best = best_first(scores, top)
        found = [pool[place] for place in best] if pool else [self._text_of(pair) for pair in best]
        return [
            Match(text=text, image_id=image_id, score=float(scores[place]), is_own=text in own)
            for text, place in zip(found, best, strict=True)
        ]

    def nearest(self, image_id: str, *, top: int = 10, advance: Advance = _no_progress) -> list[tuple[str, float]]:
        """Return the `top` images most similar to an image, with their cosine similarities, -1 to 1.

        The vectors are the mean region states before the text joins, less the mean of the set.
        """
        row = self.row_of(image_id)
        states = image_states(self.backbone, self.reader, advance=advance)
        alike = F.cosine_similarity(states, states[row], dim=1)
        others = [place for place in best_first(alike, top + 1) if place != row][:top]
        return [(self.image_ids[other], float(alike[other])) for other in others]

    @torch.no_grad()
    def answer(self, question: str, image_id: str) -> dict[str, float]:
        """Return the probability of each answer to a question about an image, the most probable first."""
        answers = self.answers
        self._head("answer", AnswerHead)
        batch = read_pairs(self.reader, self._texts([question]), self._rows_of([image_id]))
        logits = answer_logits(self.heads, self.backbone(batch.to(self.device)))[0].cpu()
        probabilities = logits.softmax(0).tolist()
        return {answers[place]: probabilities[place] for place in best_first(logits, len(answers))}

    def right_answers(self, question: str, image_id: str) -> tuple[str, ...]:
        """Return the set's right answers, best first; empty if it does not hold this question about the image."""
        questions, row = self.shards.questions, self.row_of(image_id)
        if questions is None:
            return ()
        known = samples_of(self.shards, [row])[0]["texts"]
        if question not in known:
            return ()
        pair = (self.reader.images == row).nonzero().squeeze(1)[known.index(question)]
        ids, scores = (part[0] for part in self.reader.answers(pair[None]))
        return tuple(questions.answers[int(ids[place])] for place in best_first(scores, len(scores)) if ids[place] >= 0)

    def attention(self, text: str, image_id: str) -> WordAttention:
        """Return the attention of the words of a text on the regions of an image."""
        texts = self._texts([text])
        batch = read_pairs(self.reader, texts, self._rows_of([image_id]))
        weights = encode_with_attention(self.backbone, batch.to(self.device))[1][0].cpu()
        num_regions = int(self.shards.region_counts[self.row_of(image_id)])
        words, rows = [], []
        for position in range(FIRST_WORD_POSITION, int(texts.word_positions.max()) + 1):
            of_word = texts.word_positions[0] == position
            words.append(self._spelt(texts.token_ids[0, of_word]))
            rows.append(weights[of_word, :num_regions].mean(0))
        return WordAttention(words=tuple(words), weights=torch.stack(rows))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.shards.keys)}

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher(self.backbone, self._head("match", MatchHead), self.reader)

    def _head(self, name: str, kind: type[Head]) -> Head:
        """Return a head. Raises: CheckpointError if the checkpoint has none of this name."""
        if name not in self.heads:
            raise CheckpointError(
                f"{self.checkpoint} has heads {', '.join(self.heads)} but no {name} head; {_TRAINED_BY[name]}"
            )
        head = self.heads[name]
        if not isinstance(head, kind):
            raise TypeError(f"the head called {name!r} is a {type(head).__name__}")
        return head

    def _rows_of(self, image_ids: Sequence[str]) -> Tensor:
        return torch.tensor([self.row_of(image_id) for image_id in image_ids], dtype=torch.int64)

    def _texts(self, sentences: Sequence[str]) -> Texts:
        return texts_of(sentences, self.pieces, max_tokens=self.shards.index.max_tokens)

    def _spelt(self, token_ids: Tensor) -> str:
        """A word from the ids of its pieces."""
        pieces = self.pieces.vocabulary.pieces
        return "".join(pieces[number].removeprefix("##") for number in token_ids.tolist())

    def _text_of(self, pair: int) -> str:
        """The original text of a pair of the set."""
        row = int(self.reader.images[pair])
        ordinal = int((self.reader.images[:pair] == row).sum())
        text: str = samples_of(self.shards, [row])[0]["texts"][ordinal]
        return text


def best_first(scores: Tensor, top: int) -> list[int]:
    """Return the indices of the `top` largest of float32 [N] `scores`, largest first; ties keep their order."""
    if top < 1:
        raise InputError(f"top {top} shows nothing; it must be at least 1")
    order: list[int] = torch.argsort(scores, descending=True, stable=True)[:top].tolist()
    return order
