"""Match scores of texts, free or of a set, against images of a set.

M texts, N images, B batch, T text tokens, S region slots, H hidden size. Only one batch of images and the [M, N] scores
are in memory at a time, so a set may have any size.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msp_ds.data.format.text import WordPieces
from msp_ds.data.loading.reader import Reader, ReadImages
from msp_ds.errors import InputError
from msp_ds.evaluation.ranking import PairScorer
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
        """int64 [M]: number of pieces of each text, with [CLS] and [SEP]."""
        return (self.word_positions > 0).sum(1)


def texts_of(sentences: Sequence[str], pieces: WordPieces, *, max_tokens: int) -> Texts:
    """Encode free texts, cut at `max_tokens`. Raises: InputError for a text without a word."""
    encoded = [pieces.encode(sentence, max_tokens=max_tokens) for sentence in sentences]
    width = max((len(one.token_ids) for one in encoded), default=2)
    for sentence, one in zip(sentences, encoded, strict=True):
        if len(one.token_ids) == 2:
            raise InputError(f"the text {sentence!r} has no word; write at least one")
        if one.truncated:
            log.warning("%r is longer than the %d word pieces that are read; its end is left out", sentence, max_tokens)
    token_ids, positions = (
        torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64).reshape(-1, width)
        for rows in ([one.token_ids for one in encoded], [one.word_positions for one in encoded])
    )
    return Texts(token_ids=token_ids, word_positions=positions)


def texts_of_set(reader: Reader, pairs: Tensor) -> Texts:
    """Return the texts of int64 [M] `pairs` of a set."""
    token_ids, positions = reader.texts(pairs)
    return Texts(token_ids=token_ids, word_positions=positions)


def read_pairs(read: ReadImages, texts: Texts, images: Tensor) -> Batch:
    """Return a batch of B texts, each with its image of int64 [B] `images`."""
    batch = read(images)
    return dataclasses.replace(
        batch,
        token_ids=texts.token_ids,
        word_positions=texts.word_positions,
        token_mask=texts.word_positions > 0,
        corruption=no_corruption(texts.token_ids, batch.region_mask),
    )


class Matcher:
    """Scores texts against images by the margin of the match head, with dropout off."""

    def __init__(self, backbone: Backbone, head: MatchHead, read: ReadImages) -> None:
        self._scorer = PairScorer(backbone, head)
        self._read = read

    @torch.no_grad()
    def scores(self, texts: Texts, images: Tensor, *, advance: Callable[[int], None] = lambda pairs: None) -> Tensor:
        """Return float32 [M, N] margins z1 - z0 on the CPU, of texts against int64 [N] `images`; larger fits better.

        advance: called with the number of finished pairs.
        """
        scores, lengths = torch.empty(len(texts.token_ids), len(images)), texts.lengths
        for places in torch.split(torch.arange(len(images)), IMAGES_AT_ONCE):
            projected, mask = self._scorer.project_images(self._read(images[places]))
            # Texts of one length at a time need no padding.
            for length in torch.unique(lengths).tolist():
                same_length = (lengths == length).nonzero().squeeze(1)
                for some in torch.split(same_length, max(1, PAIRS_AT_ONCE // len(places))):
                    parts = (part[some, :length] for part in (texts.token_ids, texts.word_positions))
                    margins = self._scorer.margins(self._scorer.project_texts(*parts), projected, mask)
                    scores[some[:, None], places] = margins.T.cpu()
                    advance(margins.numel())
        return scores


@torch.no_grad()
def image_states(
    backbone: Backbone, read: ReadImages, images: Tensor, *, advance: Callable[[int], None] = lambda images: None
) -> Tensor:
    """Return float32 [N, H] on the CPU: mean region state of each of int64 [N] `images` before the text joins."""
    device = next(backbone.parameters()).device
    means = []
    for rows in torch.split(images, IMAGES_AT_ONCE):
        batch = read(rows).to(device)
        states, mask = backbone.embed_images(batch.features, batch.boxes, batch.region_mask)
        first = states.shape[1] - batch.region_mask.shape[1]  # behind the visual [CLS], which is the same everywhere
        weights = mask[:, first:].float()
        totals = (states[:, first:].float() * weights[..., None]).sum(1)
        means.append((totals / weights.sum(1, keepdim=True).clamp(min=1)).cpu())
        advance(len(rows))
    return torch.cat(means)
