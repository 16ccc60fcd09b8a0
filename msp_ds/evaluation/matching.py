"""How well any texts fit any images of a set: free text, or rows of the set; the images are read as they are needed.

M texts, N images, B batch, T text tokens, S region slots, H hidden size. Nothing of the set stays in memory but one
batch of images and the [M, N] scores, so its size does not matter.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msp_ds.data.format.text import WordPieces
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import MatchHead
from msp_ds.records import Batch, no_corruption

log = logging.getLogger(__name__)

IMAGES_AT_ONCE, PAIRS_AT_ONCE = 64, 512


@dataclass(frozen=True, kw_only=True)
class Texts:
    """M texts as the model reads them."""

    token_ids: Tensor
    """int64 [M, T]: [CLS] pieces [SEP], then padding (0)."""
    word_positions: Tensor
    """int64 [M, T], 0 on padding."""

    @property
    def lengths(self) -> Tensor:
        """int64 [M]: pieces of each, [CLS] and [SEP] included."""
        return (self.word_positions > 0).sum(1)


def texts_of(sentences: Sequence[str], pieces: WordPieces, *, max_tokens: int) -> Texts:
    """Free texts in the pieces of a vocabulary, cut at `max_tokens`. Raises: InputError for one without a word."""
    encoded = [pieces.encode(sentence, max_tokens=max_tokens) for sentence in sentences]
    width = max((len(one.token_ids) for one in encoded), default=2)
    for sentence, one in zip(sentences, encoded, strict=True):
        if len(one.token_ids) == 2:
            raise InputError(f"the text {sentence!r} has no word; write at least one")
        if one.truncated:
            log.warning("%r is longer than the %d word pieces that are read; its end is left out", sentence, max_tokens)
    token_ids = [one.token_ids + [0] * (width - len(one.token_ids)) for one in encoded]
    positions = [one.word_positions + [0] * (width - len(one.word_positions)) for one in encoded]
    return Texts(
        token_ids=torch.tensor(token_ids, dtype=torch.int64).reshape(-1, width),
        word_positions=torch.tensor(positions, dtype=torch.int64).reshape(-1, width),
    )


def texts_of_set(reader: Reader, pairs: Tensor) -> Texts:
    """The texts of int64 [M] `pairs` of a set."""
    token_ids, positions = reader.texts(pairs)
    return Texts(token_ids=token_ids, word_positions=positions)


def read_images(reader: Reader, images: Tensor) -> Batch:
    """The images in int64 [B] rows of a set, each with a text that means nothing: that of the set's first pair."""
    return reader.read(
        torch.zeros_like(images),
        images=images,
        matched=torch.ones(len(images), dtype=torch.bool),
        random_regions=torch.empty(len(images), 0),
    )


def read_pairs(reader: Reader, texts: Texts, images: Tensor) -> Batch:
    """B texts, each with the image in its row of int64 [B] `images`."""
    batch = read_images(reader, images)
    return dataclasses.replace(
        batch,
        token_ids=texts.token_ids,
        word_positions=texts.word_positions,
        token_mask=texts.word_positions > 0,
        corruption=no_corruption(texts.token_ids, batch.region_mask),
    )


class Matcher:
    """Scores texts against images by the margin of the match head; dropout is off."""

    def __init__(self, backbone: Backbone, head: MatchHead, reader: Reader) -> None:
        self.backbone = backbone.eval()
        self.head = head.eval()
        self.reader = reader
        self.device = next(backbone.parameters()).device

    @torch.no_grad()
    def scores(self, texts: Texts, images: Tensor, *, advance: Callable[[int], None] = lambda pairs: None) -> Tensor:
        """float32 [M, N] on the CPU: the margins z1 - z0 of `texts` against the rows int64 [N] `images`.

        Larger fits better. `advance` hears of finished pairs.
        """
        scores = torch.empty(len(texts.token_ids), len(images))
        lengths = texts.lengths
        for places in torch.split(torch.arange(len(images)), IMAGES_AT_ONCE):
            batch = read_images(self.reader, images[places]).to(self.device)
            regions, mask = self.backbone.embed_images(batch.features, batch.boxes, batch.region_mask)
            # Texts of one length at a time: nothing is padded, so nothing is computed in vain.
            for length in torch.unique(lengths).tolist():
                alike = (lengths == length).nonzero().squeeze(1)
                for some in torch.split(alike, max(1, PAIRS_AT_ONCE // len(places))):
                    scores[some[:, None], places] = self._margins(texts, some, int(length), regions, mask).cpu()
                    advance(len(some) * len(places))
        return scores

    def _margins(self, texts: Texts, some: Tensor, length: int, regions: Tensor, mask: Tensor) -> Tensor:
        """float32 [m, n] of the texts in rows int64 [m] `some`, all of `length` pieces, and n embedded images."""
        token_ids, positions = (part[some, :length].to(self.device) for part in (texts.token_ids, texts.word_positions))
        text_mask = torch.ones_like(token_ids, dtype=torch.bool)
        text = self.backbone.embed_texts(token_ids, positions, text_mask)
        num_texts, num_images = len(text), len(regions)
        pairs = self.backbone.encode_pairs(
            text.repeat_interleave(num_images, 0),
            regions.repeat(num_texts, 1, 1),
            text_mask.repeat_interleave(num_images, 0),
            mask.repeat(num_texts, 1),
        )
        logits: Tensor = self.head(pairs).float()
        return (logits[:, 1] - logits[:, 0]).view(num_texts, num_images)


@torch.no_grad()
def image_states(backbone: Backbone, reader: Reader, *, advance: Callable[[int], None] = lambda images: None) -> Tensor:
    """float32 [N, H] on the CPU: the mean state of an image's regions before they meet a text, less that of the set."""
    device = next(backbone.parameters()).device
    means = []
    for rows in torch.split(torch.arange(reader.num_images), IMAGES_AT_ONCE):
        batch = read_images(reader, rows).to(device)
        states, mask = backbone.embed_images(batch.features, batch.boxes, batch.region_mask)
        first = states.shape[1] - batch.region_mask.shape[1]  # behind the visual [CLS], which is the same everywhere
        shares = mask[:, first:].float()
        totals = (states[:, first:].float() * shares[..., None]).sum(1)
        means.append((totals / shares.sum(1, keepdim=True).clamp(min=1)).cpu())
        advance(len(rows))
    found = torch.cat(means)
    return found - found.mean(0)
