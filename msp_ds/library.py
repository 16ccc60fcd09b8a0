"""The Python interface: a trained model and the images of a shard set or picture files, one line for each question.

    model = msp_ds.load("runs/tps", shards="shards/sentence/val")
    image = model.image_ids[0]
    model.score(["a red bus near a tree"], [image])        # float32 [1, 1]: above 0 they match
    model.embed(["a red bus near a tree"], [image]).pair   # float32 [1, H]
    model.captions(image, top=3), model.search("a red bus near a tree", top=3)
    msp_ds.load("runs/vqa", shards="shards/vqa/val").answer("what color is the bus ?", image)
    msp_ds.load("runs/vqa", detector="detector/").answer("what color is the bus ?", "bus.jpg")

M texts, N images, T text tokens, R regions, H hidden size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msp_ds.data.format.shards import ShardSet, open_set
from msp_ds.data.format.text import FIRST_WORD_POSITION
from msp_ds.data.loading.image_files import read_records
from msp_ds.data.loading.reader import Reader, ReadImages
from msp_ds.downstream.vqa import answer_logits
from msp_ds.errors import CheckpointError, InputError, ShardError
from msp_ds.evaluation.matching import Matcher, Texts, image_states, read_pairs, texts_of, texts_of_set
from msp_ds.model.attention_weights import encode_with_attention
from msp_ds.model.heads import AnswerHead, MatchHead
from msp_ds.preparation.recipe import MAX_TOKENS
from msp_ds.preparation.verifying.inspection import samples_of
from msp_ds.records import Batch, Encoded
from msp_ds.regions.detector import Detector
from msp_ds.regions.region_cache import RegionCache
from msp_ds.regions.same_detector import open_detector
from msp_ds.training.checkpointing.inference import TrainedModel, load_trained
from msp_ds.training.checkpointing.run_folder import find_checkpoint, origin_of, set_of
from msp_ds.training.checkpointing.weights_folder import is_weights_folder, read_words
from msp_ds.training.options import CACHE

Image = str | PathLike[str]
"""The id of an image of the set, which goes first, or the path of a picture file."""
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
    """A trained model with the images of a set, or with picture files alone, in evaluation mode.

    Each `advance` argument is called with the number of items that were just finished.
    """

    def __init__(
        self,
        trained: TrainedModel,
        shards: ShardSet | None,
        *,
        detector: str | PathLike[str] | Detector | None = None,
        device: str | None = None,
        cache: str | PathLike[str] | None = None,
    ) -> None:
        """The arguments are those of `msp_ds.load`."""
        self.device = _device(device)
        self.checkpoint = trained.checkpoint
        self.config = trained.config
        self.backbone = trained.backbone.to(self.device).eval()
        self.heads = trained.heads.to(self.device).eval()
        self._set = shards
        self._rows = {image_id: row for row, image_id in enumerate(shards.keys if shards else ())}
        self.pieces = shards.word_pieces() if shards else read_words(self.checkpoint)[0]
        self._detector, self._cache = detector, Path(cache or CACHE) / "regions"
        if detector is not None:
            _ = self.regions  # a wrong one is refused before the first question

    @classmethod
    def load(cls, checkpoint: str | PathLike[str], *, shards: str | PathLike[str] | None = None, **how: Any) -> Model:
        """Load a model; `msp_ds.load` calls this."""
        found = find_checkpoint(Path(checkpoint))
        folder = set_of(found) if shards is None else Path(shards)
        opened = None if folder is None else open_set(folder)
        return cls(load_trained(found, shards=opened, needed_heads=(), preset=None), opened, **how)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the images of the set, in its order: `coco-391895`; () without a set."""
        return tuple(self._rows)

    @property
    def shards(self) -> ShardSet:
        """The set. Raises: ShardError for a model without one."""
        if self._set is None:
            raise ShardError(f"{self.checkpoint} was loaded without a set to choose from; name one: --shards")
        return self._set

    @cached_property
    def reader(self) -> Reader:
        """Reads the images and the texts of the set. Raises: ShardError for a model without one."""
        return Reader(self.shards)

    @cached_property
    def regions(self) -> RegionCache:
        """Computes the regions of picture files.

        Raises: InputError unless the detector is that of the regions that the model and the set know.
        """
        known = {self.checkpoint: origin_of(self.checkpoint).detector}
        if self._set is not None:
            known[self._set.path] = self._set.index.detector
        width, device = self.backbone.config.feature_width, str(self.device)
        detector = open_detector(self._detector, known=known, feature_width=width, device=device)
        return RegionCache(detector, folder=self._cache)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The answers that `answer` chooses from. Raises: ShardError where neither set nor weights folder has them."""
        if self._set is not None and self._set.questions is not None:
            return self._set.questions.answers
        if is_weights_folder(self.checkpoint) and (known := read_words(self.checkpoint)[1]):
            return known
        raise ShardError(
            f"{self._set.path if self._set else self.checkpoint} holds no answers to choose from; use the shards of "
            "the benchmark that the model was fine-tuned on, such as shards/vqa/val, or import it with --answers"
        )

    def locate(self, image: Image) -> int | Path:
        """Return the row of an image of the set, else the path of a picture file. Raises: InputError for neither."""
        if isinstance(image, str) and image in self._rows:
            return self._rows[image]
        if os.path.isfile(image):
            return Path(image)
        here = ""
        if self._set is not None:
            known = f"it has {len(self._rows):,}, such as {', '.join(self.image_ids[:3])}"
            here = f"{self._set.path} holds no image {str(image)!r}; {known}; and "
        raise InputError(f"{here}there is no picture file {image}")

    def describe(self, image: Image) -> dict[str, Any]:
        """Return an image as preparation.verifying.inspection describes it, and of a file the path as `file`."""
        place = self.locate(image)
        return samples_of(self.shards, [place])[0] if isinstance(place, int) else self.regions.describe(place)

    @torch.no_grad()
    def embed(self, texts: Sequence[str], images: Image | Sequence[Image]) -> Encoded:
        """Encode B pairs of a text and an image; return float32 states on the CPU.

        `.pair` [B, H] represents the pair, `.text` [B, T, H] its tokens and `.regions` [B, R, H] its regions.
        """
        read, rows = self._reader_of(images)
        if len(texts) != len(rows):
            raise InputError(f"{len(texts)} texts and {len(rows)} images make no pairs; give one image to each text")
        encoded = self.backbone(read_pairs(read, self._texts(texts), rows).to(self.device))
        return Encoded(text=encoded.text.cpu(), regions=encoded.regions.cpu(), pair=encoded.pair.cpu())

    def score(
        self, texts: Sequence[str], images: Image | Sequence[Image], *, advance: Advance = _no_progress
    ) -> Tensor:
        """Return float32 [M, N] scores of each text with each image; above 0 they match."""
        return self._scores(self._texts(texts), images, advance=advance)

    def search(self, text: str, *, top: int = 10, advance: Advance = _no_progress) -> list[Match]:
        """Return the `top` images of the set that fit a text best, best first."""
        scores = self._scores(self._texts([text]), self.shards.keys, advance=advance)[0]
        best = best_first(scores, top)
        written = [sample["texts"] for sample in samples_of(self.shards, best)]
        return [
            Match(text=text, image_id=self.image_ids[row], score=float(scores[row]), is_own=text in texts)
            for row, texts in zip(best, written, strict=True)
        ]

    def captions(
        self, image: Image, *, pool: Sequence[str] = (), top: int = 10, advance: Advance = _no_progress
    ) -> list[Match]:
        """Return the `top` texts that fit an image best, best first, from `pool` or from all texts of the set."""
        own = set(self.describe(image)["texts"])
        texts = self._texts(pool) if pool else texts_of_set(self.reader, torch.arange(len(self.reader.keys)))
        scores = self._scores(texts, image, advance=advance)[:, 0]
        best = best_first(scores, top)
        found = [pool[place] for place in best] if pool else [self._text_of(pair) for pair in best]
        return [
            Match(text=text, image_id=str(image), score=float(scores[place]), is_own=text in own)
            for text, place in zip(found, best, strict=True)
        ]

    def nearest(self, image: Image, *, top: int = 10, advance: Advance = _no_progress) -> list[tuple[str, float]]:
        """Return the `top` images of the set most similar to an image, with their cosine similarities, -1 to 1.

        The vectors are the mean region states before the text joins, less the mean of the set.
        """
        row = self.locate(image)
        states = image_states(self.backbone, *self._reader_of(self.shards.keys), advance=advance)
        own = states[row] if isinstance(row, int) else image_states(self.backbone, *self._reader_of(image))[0]
        mean = states.mean(0)
        alike = F.cosine_similarity(states - mean, own - mean, dim=1)
        others = [place for place in best_first(alike, top + 1) if place != row][:top]
        return [(self.image_ids[other], float(alike[other])) for other in others]

    @torch.no_grad()
    def answer(self, question: str, image: Image) -> dict[str, float]:
        """Return the probability of each answer to a question about an image, the most probable first."""
        answers = self.answers
        self._head("answer", AnswerHead)
        read, rows = self._reader_of(image)
        batch = read_pairs(read, self._texts([question]), rows)
        logits = answer_logits(self.heads, self.backbone(batch.to(self.device)))[0].cpu()
        probabilities = logits.softmax(0).tolist()
        return {answers[place]: probabilities[place] for place in best_first(logits, len(answers))}

    def right_answers(self, question: str, image: Image) -> tuple[str, ...]:
        """Return the set's right answers, best first; empty if it does not hold this question about the image."""
        questions, row = self._set.questions if self._set else None, self.locate(image)
        if questions is None or isinstance(row, Path):
            return ()
        known = samples_of(self.shards, [row])[0]["texts"]
        if question not in known:
            return ()
        pair = (self.reader.images == row).nonzero().squeeze(1)[known.index(question)]
        ids, scores = (part[0] for part in self.reader.answers(pair[None]))
        return tuple(questions.answers[int(ids[place])] for place in best_first(scores, len(scores)) if ids[place] >= 0)

    def attention(self, text: str, image: Image) -> WordAttention:
        """Return the attention of the words of a text on the regions of an image."""
        texts = self._texts([text])
        read, images = self._reader_of(image)
        batch = read_pairs(read, texts, images)
        weights = encode_with_attention(self.backbone, batch.to(self.device))[1][0].cpu()
        num_regions = int(batch.region_mask.sum())
        words, rows = [], []
        for position in range(FIRST_WORD_POSITION, int(texts.word_positions.max()) + 1):
            of_word = texts.word_positions[0] == position
            words.append(self._spelt(texts.token_ids[0, of_word]))
            rows.append(weights[of_word, :num_regions].mean(0))
        return WordAttention(words=tuple(words), weights=torch.stack(rows))

    def _scores(self, texts: Texts, images: Image | Sequence[Image], *, advance: Advance) -> Tensor:
        """float32 [M, N]: scores of each text with each image."""
        head = self._head("match", MatchHead)
        read, rows = self._reader_of(images)
        return Matcher(self.backbone, head, read).scores(texts, rows, advance=advance)

    def _reader_of(self, images: Image | Sequence[Image]) -> tuple[ReadImages, Tensor]:
        """Return what reads one or N images, and the int64 [N] rows that stand for them there."""
        places = [self.locate(image) for image in ([images] if isinstance(images, (str, PathLike)) else images)]
        rows = [place for place in places if isinstance(place, int)]
        if len(rows) == len(places):
            return self.reader.read_images, torch.tensor(rows, dtype=torch.int64)

        def read(rows: Tensor) -> Batch:
            found = (places[row] for row in rows.tolist())
            records = [self.reader.record(one) if isinstance(one, int) else self.regions.read(one) for one in found]
            return read_records(records, num_regions=self._set.index.num_regions if self._set else 0)

        return read, torch.arange(len(places))

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

    def _texts(self, sentences: Sequence[str]) -> Texts:
        max_tokens = self._set.index.max_tokens if self._set else MAX_TOKENS["vqa"]
        return texts_of(sentences, self.pieces, max_tokens=max_tokens)

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


def _device(name: str | None) -> torch.device:
    """The device of a name, by default a GPU, CUDA's or else Apple's. Raises: InputError for one that is not here."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        raise InputError(f"torch has no device {name} here; name another with --device, or leave it out") from None


def best_first(scores: Tensor, top: int) -> list[int]:
    """Return the indices of the `top` largest of float32 [N] `scores`, largest first; ties keep their order."""
    if top < 1:
        raise InputError(f"top {top} shows nothing; it must be at least 1")
    order: list[int] = torch.argsort(scores, descending=True, stable=True)[:top].tolist()
    return order
