"""Image-text retrieval: every caption scored against every image by the match head, zero-shot or fine-tuned.

N images, M captions, R regions, T tokens, H hidden size. Standard protocol (docs/evaluation.md, Official rules:
retrieval): image retrieval ranks all images for each caption, text retrieval all captions for each image.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
"""By device: as many as fit in the caches of a CPU, and enough to keep a GPU busy."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The images and captions that are ranked against each other."""

    first_pairs: Tensor
    """int64 [N]: one pair of each image, through which the image is read."""
    captions: Tensor
    """int64 [M]: the pair of each caption."""
    image_of_caption: Tensor
    """int64 [M]: index of each caption's image among the N images."""


def choose_pool(reader: Reader, *, num_images: int | None = None, captions_per_image: int | None = None) -> Pool:
    """Return the first `num_images` images of a set with the first `captions_per_image` captions each; None for all."""
    if captions_per_image is not None and captions_per_image < 1:
        raise InputError(f"{captions_per_image} captions an image leave nothing to rank; ask for at least 1")
    _, places = torch.unique(reader.images, return_inverse=True)
    total = int(places.max()) + 1
    wanted = total if num_images is None else num_images
    if not 0 < wanted <= total:
        raise InputError(f"{reader.shards.path} has {total} images with captions, not {wanted}")
    order = places.argsort(stable=True)
    first_of_image = torch.searchsorted(places[order], torch.arange(total))
    ordinal = torch.arange(len(order)) - first_of_image[places[order]]
    kept = (places[order] < wanted) & (ordinal < min(captions_per_image or len(order), len(order)))
    captions = order[kept]
    return Pool(first_pairs=order[first_of_image[:wanted]], captions=captions, image_of_caption=places[captions])


def match_accuracy(scores: Tensor, image_of_caption: Tensor) -> float:
    """Return the accuracy of the match head on pairs of which half are mismatched, in expectation over all mismatches.

    scores: float32 [N, M] margins, matched above 0; image_of_caption: int64 [M].
    """
    own = torch.zeros_like(scores, dtype=torch.bool)
    own[image_of_caption, torch.arange(scores.shape[1])] = True
    right_own, right_other = scores[own] > 0, scores[~own] <= 0
    return float(right_own.float().mean() + right_other.float().mean()) / 2


class PairScorer:
    """Scores pairs by the margin of the match head; each image and caption is embedded and projected once."""

    def __init__(
        self, backbone: Backbone, head: MatchHead, *, precision: Precision = "fp32", pairs_at_once: int | None = None
    ) -> None:
        """pairs_at_once: pairs of one forward pass; None for the device's default."""
        self.backbone = backbone.eval()
        self.head = head.eval()
        self.precision = precision
        self.device = next(backbone.parameters()).device
        self.pairs_at_once = pairs_at_once or PAIRS_AT_ONCE.get(self.device.type, PAIRS_AT_ONCE["cuda"])

    def scores(self, reader: Reader, pool: Pool, *, advance: Callable[[int], None] = lambda pairs: None) -> Tensor:
        """Return float32 [N, M] margins z1 - z0, which rank like the softmax but do not saturate into ties.

        advance: called with the number of finished pairs.
        """
        scores = torch.empty(len(pool.first_pairs), len(pool.captions))
        for columns, margins in self.score_blocks(reader, pool, self.blocks(reader, pool), advance=advance):
            scores[:, columns] = margins
        return scores

    def blocks(self, reader: Reader, pool: Pool) -> list[Tensor]:
        """Return blocks of captions, int64 [m] each, that are scored against all images together.

        The captions of a block have one length, so that none is padded. The blocks depend on the pool and on
        `pairs_at_once` alone, so a pair's score is equal to the last bit in any process.
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
        """Yield int64 [m] columns of each block and their float32 [N, m] margins on the CPU.

        Raises: RuntimeError when a part of the model is in training mode, InputError for scores that are not finite.
        """
        batches = (reader.read_images(reader.images[pairs]) for pairs in torch.split(pool.first_pairs, READ_BATCH))
        projected, masks = zip(*map(self.project_images, batches), strict=True)
        images, mask = Projected(*(torch.cat(parts) for parts in zip(*projected, strict=True))), torch.cat(masks)
        for columns in blocks:
            texts = self.project_texts(*reader.texts(pool.captions[columns]))
            margins, at_once = [], max(1, self.pairs_at_once // len(columns))
            for first in range(0, len(mask), at_once):
                some = slice(first, first + at_once)
                margins.append(self.margins(texts, images.map(itemgetter(some)), mask[some]))
                advance(margins[-1].numel())
            block = torch.cat(margins).cpu()
            if not block.isfinite().all():
                raise InputError("the model's scores are not finite, it has diverged; take an earlier checkpoint")
            yield columns, block

    def project_images(self, batch: Batch) -> tuple[Projected, Tensor]:
        """Return the B images of a batch as the layers first see them, and their bool mask [B, S]."""
        self._require_evaluation_mode()
        batch = batch.to(self.device)
        with self._arithmetic():
            regions, mask = self.backbone.embed_images(batch.features, batch.boxes, batch.region_mask)
            return self.backbone.layers.project(regions), mask

    def project_texts(self, token_ids: Tensor, word_positions: Tensor) -> Projected:
        """Return m texts of equal length, int64 [m, T] each, as the layers first see them."""
        token_ids, positions = token_ids.to(self.device), word_positions.to(self.device)
        with self._arithmetic():
            text = self.backbone.embed_texts(token_ids, positions, torch.ones_like(token_ids, dtype=torch.bool))
            return self.backbone.layers.project(text)

    def margins(self, texts: Projected, images: Projected, region_mask: Tensor) -> Tensor:
        """Return float32 [n, m] margins z1 - z0 of n images against m captions."""
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
        weights = self.backbone.text_pooler.weight.dtype  # unless the caller has made the model another type
        logits: Tensor = self.head(self.backbone.pool(text_cls.to(weights), region_cls.to(weights))).float()
        return (logits[:, 1] - logits[:, 0]).view(num_images, num_captions)

    def _arithmetic(self) -> AbstractContextManager[object]:
        device = self.device.type
        if self.precision == "bf16":
            return torch.autocast(device, torch.bfloat16)
        # A caller's autocast must not reach the scores; a device without autocast refuses even to switch it off.
        return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()

    def _require_evaluation_mode(self) -> None:
        training = [
            f"{part}.{name}".rstrip(".")
            for part, module in (("backbone", self.backbone), ("head", self.head))
            for name, submodule in module.named_modules()
            if submodule.training
        ]
        if training:
            raise RuntimeError(f"{training[0]} is in training mode, its dropout would blur the scores; call eval()")
