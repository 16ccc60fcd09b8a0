"""Image-text retrieval: every caption scored against every image by the match head, zero-shot or fine-tuned.

N images, M captions, R regions, T tokens, H hidden size. Standard protocol (docs/evaluation.md, Official rules:
retrieval): image retrieval ranks all images for each caption, text retrieval all captions for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError
from msp_ds.evaluation.precision import Precision
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import MatchHead
from msp_ds.model.layers import Projected
from msp_ds.records import Batch

READ_BATCH = 64
PAIRS_AT_ONCE = {"cpu": 64, "cuda": 2048}
"""By device: on a CPU what its caches hold, on a GPU what keeps it busy."""


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
    kept = (places[order] < wanted) & (ordinal < min(captions_per_image or len(order), len(order)))
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
    """Scores pairs by the margin of the match head; what an image or a caption is alone is computed once."""

    def __init__(
        self, backbone: Backbone, head: MatchHead, *, precision: Precision = "fp32", pairs_at_once: int | None = None
    ) -> None:
        """pairs_at_once: in one forward pass; None takes what suits the device."""
        self.backbone = backbone.eval()
        self.head = head.eval()
        self.precision = precision
        self.device = next(backbone.parameters()).device
        self.pairs_at_once = pairs_at_once or PAIRS_AT_ONCE.get(self.device.type, PAIRS_AT_ONCE["cuda"])

    def scores(self, reader: Reader, pool: Pool, *, advance: Callable[[int], None] = lambda pairs: None) -> Tensor:
        """float32 [N, M] margins z1 - z0: larger means a better match. `advance` hears of finished pairs.

        The margin ranks like the softmax but does not saturate into ties.
        """
        scores = torch.empty(len(pool.first_pairs), len(pool.captions))
        for columns, margins in self.score_blocks(reader, pool, self.blocks(reader, pool), advance=advance):
            scores[:, columns] = margins
        return scores

    def blocks(self, reader: Reader, pool: Pool) -> list[Tensor]:
        """int64 [m] each: the pool's captions dealt into blocks, each scored against all images in one go.

        Captions of a block are of one length: nothing is padded, so nothing is computed in vain. The blocks depend on
        the pool and on `pairs_at_once` alone, so a pair scores the same to the last bit whoever scores it when.
        """
        ends = reader.shards.pairs.offsets
        lengths = torch.from_numpy(ends[1:] - ends[:-1])[pool.captions]
        together = max(1, self.pairs_at_once // len(pool.first_pairs))
        groups = [(lengths == length).nonzero().squeeze(1) for length in torch.unique(lengths).tolist()]
        return [columns for group in groups for columns in torch.split(group, together)]

    @torch.no_grad()
    def score_blocks(
        self,
        reader: Reader,
        pool: Pool,
        blocks: Iterable[Tensor],
        *,
        advance: Callable[[int], None] = lambda pairs: None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each of the `blocks` its columns, int64 [m], and the margins, float32 [N, m] on the CPU.

        Raises: RuntimeError when a part of the model would drop out states, InputError for scores that are no numbers.
        """
        images, mask = self._project_images(reader, pool)
        for columns in blocks:
            texts = self._project_texts(reader, pool.captions[columns])
            margins, at_once = [], max(1, self.pairs_at_once // len(columns))
            for first in range(0, len(mask), at_once):
                some = slice(first, first + at_once)
                margins.append(self._margins(texts, images.map(itemgetter(some)), mask[some]))
                advance(margins[-1].numel())
            block = torch.cat(margins).cpu()
            if not block.isfinite().all():
                raise InputError("the model's scores are not finite, it has diverged; take an earlier checkpoint")
            yield columns, block

    def _project_images(self, reader: Reader, pool: Pool) -> tuple[Projected, Tensor]:
        """The N images as the layers first see them, and their bool mask [N, S]."""
        self._require_evaluation_mode()
        found = []
        for rows in torch.split(pool.first_pairs, READ_BATCH):
            batch = self._read(reader, rows)
            with self._arithmetic():
                regions, mask = self.backbone.embed_images(batch.features, batch.boxes, batch.region_mask)
                found.append((self.backbone.layers.project(regions), mask))
        projected, masks = zip(*found, strict=True)
        return Projected(*(torch.cat(parts) for parts in zip(*projected, strict=True))), torch.cat(masks)

    def _project_texts(self, reader: Reader, rows: Tensor) -> Projected:
        """m captions of one length as the layers first see them."""
        token_ids, positions = (part.to(self.device) for part in reader.texts(rows))
        with self._arithmetic():
            text = self.backbone.embed_texts(token_ids, positions, torch.ones_like(token_ids, dtype=torch.bool))
            return self.backbone.layers.project(text)

    def _margins(self, texts: Projected, images: Projected, region_mask: Tensor) -> Tensor:
        """float32 [n, m]: margins of n images against m captions."""
        self._require_evaluation_mode()
        num_images, num_captions, num_tokens = len(images.states), *texts.states.shape[:2]
        # Views where n or m is 1, so with many images none of them is copied.
        text = texts.map(lambda part: part.expand(num_images, *part.shape).flatten(0, 1))
        regions = images.map(lambda part: part[:, None].expand(-1, num_captions, -1, -1).flatten(0, 1))
        mask = region_mask[:, None].expand(-1, num_captions, -1).flatten(0, 1)
        text_mask = torch.ones(len(mask), num_tokens, dtype=torch.bool, device=self.device)
        with self._arithmetic():
            text_cls, region_cls = self.backbone.layers(text, regions, text_mask, mask, cls_only=True)
        # fp32 from here in any case: with its 8 bits bf16 would tie scores that differ, and ties count as lost.
        logits: Tensor = self.head(self.backbone.pool(text_cls.float(), region_cls.float()))
        return (logits[:, 1] - logits[:, 0]).view(num_images, num_captions)

    def _arithmetic(self) -> torch.autocast:
        """In which the layers are computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _require_evaluation_mode(self) -> None:
        training = [
            f"{part}.{name}".rstrip(".")
            for part, module in (("backbone", self.backbone), ("head", self.head))
            for name, submodule in module.named_modules()
            if submodule.training
        ]
        if training:
            raise RuntimeError(f"{training[0]} is in training mode, its dropout would blur the scores; call eval()")

    def _read(self, reader: Reader, pairs: Tensor) -> Batch:
        batch = reader.read(
            pairs,
            images=reader.images[pairs],
            matched=torch.ones(len(pairs), dtype=torch.bool),
            random_regions=torch.empty(len(pairs), 0),
        )
        return batch.to(self.device)
