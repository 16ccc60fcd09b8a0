"""Image-text retrieval: every caption scored against every image by the match head, zero-shot or fine-tuned.

N images, M captions, R regions, T tokens, H hidden size. Standard protocol (FACTS 3.4): image retrieval ranks all
images for each caption, text retrieval all captions for each image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from msp_ds.data.reader import Reader
from msp_ds.errors import InputError
from msp_ds.model.encoder import Trunk
from msp_ds.model.heads import MatchHead
from msp_ds.records import Batch

READ_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The images and captions that are ranked against each other."""

    first_pairs: Tensor
    """int64 [N]: for each image the row of one of its pairs, through which the image is read."""
    captions: Tensor
    """int64 [M]: rows of the captions' pairs."""
    image_of_caption: Tensor
    """int64 [M]: place among the N images of the image that each caption belongs to."""


def choose_pool(reader: Reader, *, num_images: int | None = None, captions_per_image: int | None = None) -> Pool:
    """The first `num_images` images of a set with the first `captions_per_image` captions of each; None takes all."""
    if captions_per_image is not None and captions_per_image < 1:
        raise InputError(f"{captions_per_image} captions an image leave nothing to rank; ask for at least 1")
    _, places = torch.unique(reader.images, return_inverse=True)
    total = int(places.max()) + 1
    wanted = total if num_images is None else num_images
    if not 0 < wanted <= total:
        raise InputError(f"{reader.shards.path} has {total} images with captions, {wanted} were asked for")
    order = places.argsort(stable=True)
    first_of_image = torch.searchsorted(places[order], torch.arange(total))
    ordinal = torch.arange(len(order)) - first_of_image[places[order]]
    kept = (places[order] < wanted) & (ordinal < (captions_per_image or len(order)))
    captions = order[kept]
    return Pool(first_pairs=order[first_of_image[:wanted]], captions=captions, image_of_caption=places[captions])


def match_accuracy(scores: Tensor, image_of_caption: Tensor) -> float:
    """Share of right answers to "do they match?", half of the pairs matched, half mismatched at random.

    scores: float32 [N, M] margins, matched above 0; image_of_caption: int64 [M]. The expectation over all mismatched
    pairs is taken, not a sample of them.
    """
    own = torch.zeros_like(scores, dtype=torch.bool)
    own[image_of_caption, torch.arange(scores.shape[1])] = True
    right_own, right_other = scores[own] > 0, scores[~own] <= 0
    return float(right_own.float().mean() + right_other.float().mean()) / 2


class PairScorer:
    """Scores pairs by the margin of the match head; each image and caption is embedded once."""

    def __init__(self, trunk: Trunk, head: MatchHead, *, pairs_at_once: int = 512) -> None:
        self.trunk = trunk.eval()
        self.head = head.eval()
        self.pairs_at_once = pairs_at_once
        self.device = next(trunk.parameters()).device

    @torch.no_grad()
    def scores(self, reader: Reader, pool: Pool, *, advance: Callable[[int], None] = lambda pairs: None) -> Tensor:
        """float32 [N, M] margins z1 - z0: larger means a better match. `advance` hears of finished pairs.

        The margin ranks like the softmax but does not saturate into ties.
        """
        regions, region_mask = self._embed_images(reader, pool)
        scores = torch.empty(len(pool.first_pairs), len(pool.captions))
        ends = reader.shards.pairs.offsets
        lengths = torch.from_numpy(ends[1:] - ends[:-1])[pool.captions]
        # Captions of one length at a time: nothing is padded, so nothing is computed in vain.
        for length in torch.unique(lengths).tolist():
            columns = (lengths == length).nonzero().squeeze(1)
            for some in torch.split(columns, max(1, self.pairs_at_once // len(regions))):
                text = self._embed_texts(reader, pool.captions[some])
                for rows in torch.split(torch.arange(len(regions)), self.pairs_at_once):
                    block = self._score_block(text, regions[rows], region_mask[rows])
                    scores[rows[:, None], some] = block.cpu()
                    advance(block.numel())
        return scores

    def _embed_images(self, reader: Reader, pool: Pool) -> tuple[Tensor, Tensor]:
        """[N, S, H] embedded regions, among them the visual [CLS] if there is one, and their bool mask [N, S]."""
        batches = (self._read(reader, rows) for rows in torch.split(pool.first_pairs, READ_BATCH))
        images = [self.trunk.embed_images(batch.features, batch.boxes, batch.region_mask) for batch in batches]
        return torch.cat([regions for regions, _ in images]), torch.cat([mask for _, mask in images])

    def _embed_texts(self, reader: Reader, rows: Tensor) -> Tensor:
        """[m, T, H] embedded captions of one length."""
        token_ids, positions = (part.to(self.device) for part in reader.texts(rows))
        return self.trunk.embed_texts(token_ids, positions, torch.ones_like(token_ids, dtype=torch.bool))

    def _score_block(self, text: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """float32 [n, m]: margins of n images against m captions."""
        num_images, num_captions = len(regions), len(text)
        text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=self.device)
        pairs = self.trunk.encode_pairs(
            text.repeat(num_images, 1, 1),
            regions.repeat_interleave(num_captions, 0),
            text_mask.repeat(num_images, 1),
            region_mask.repeat_interleave(num_captions, 0),
        )
        logits: Tensor = self.head(pairs).float()
        margins = logits[:, 1] - logits[:, 0]
        return margins.view(num_images, num_captions)

    def _read(self, reader: Reader, pairs: Tensor) -> Batch:
        batch = reader.read(
            pairs,
            images=reader.images[pairs],
            matched=torch.ones(len(pairs), dtype=torch.bool),
            strays=torch.empty(len(pairs), 0),
        )
        return batch.to(self.device)
