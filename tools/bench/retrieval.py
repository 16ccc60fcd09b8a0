"""Retrieval: ours beside the released code's loop, side by side in one process, and whether the ranks stay.

    python tools/bench/retrieval.py                        (two to three minutes; 256 pairs of the paper's model)
    python tools/bench/retrieval.py --checkpoint runs/tps --shards shards/sentence/val --images 100

The loop of the released code, written here in its manner: one caption repeated over a batch of images and padded to 20
pieces, everything embedded again for every pair, every row of every layer computed, attention as matmul and softmax.
(Its dropout is off here; there it was left on.) Ours: msp_ds/evaluation/ranking.py. The ways take turns, A B, B A, ...
on one thread; the ratio is the median of the turns' ratios of process CPU time, on a GPU of wall time. Without a
checkpoint weights, images and captions are made up: scores can be compared, ranks mean nothing.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msp_ds.data.format.shards import open_set
from msp_ds.data.loading.reader import Reader
from msp_ds.errors import InputError
from msp_ds.evaluation.precision import multiplies_bf16
from msp_ds.evaluation.ranking import PairScorer, Pool, choose_pool
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import MatchHead
from msp_ds.model.layers import Attention, CrossModalityLayer, FeedForward
from msp_ds.presets import get_preset
from msp_ds.records import RegionRecord
from msp_ds.terminal import Table, Terminal, run_tool
from msp_ds.training.checkpointing.inference import load_trained
from tools.bench.common.figures import Clock, choose_device, hardware, write_figures
from tools.bench.common.synthetic_coco import random_record, random_words, write_word_set
from tools.command_line import number_table

PADDED, IMAGES_AT_ONCE = 20, 500
"""As the released code has them."""
REGIONS, WIDTH = 36, 2048
LENGTHS = (10, 12, 14, 17)
"""Pieces of the made-up captions: places spread over the lengths of COCO's, whose mean is 13."""

Scores = Callable[[], Tensor]


def plain_attention(part: Attention, states: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
    """[B, S, H]: as BERT's first code wrote it; bias float32 [B, 1, 1, M], -10 000 where nothing is."""

    def heads(layer: nn.Module, source: Tensor) -> Tensor:
        return layer(source).view(*source.shape[:2], part.num_heads, -1).permute(0, 2, 1, 3)  # type: ignore[no-any-return]

    query, key, value = heads(part.query, states), heads(part.key, memory), heads(part.value, memory)
    weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias, dim=-1)
    seen = (weights @ value).permute(0, 2, 1, 3).contiguous().flatten(2)
    return part.norm(part.output(seen) + states)  # type: ignore[no-any-return]


def plain_feed_forward(part: FeedForward, states: Tensor) -> Tensor:
    """[B, S, H], GELU spelled out."""
    wide = part.widen(states)
    activated = wide * 0.5 * (1.0 + torch.erf(wide / math.sqrt(2.0)))
    return part.norm(part.narrow(activated) + states)  # type: ignore[no-any-return]


def plain_layer(
    layer: CrossModalityLayer, text: Tensor, regions: Tensor, biases: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """All rows of both streams."""
    looked_text = plain_attention(layer.cross, text, regions, biases[1])
    looked_regions = plain_attention(layer.cross, regions, text, biases[0])
    text = plain_attention(layer.text_self, looked_text, looked_text, biases[0])
    regions = plain_attention(layer.region_self, looked_regions, looked_regions, biases[1])
    return plain_feed_forward(layer.text_feed_forward, text), plain_feed_forward(layer.region_feed_forward, regions)


@torch.no_grad()
def released_scores(backbone: Backbone, head: MatchHead, reader: Reader, pool: Pool) -> Tensor:
    """float32 [N, M] by the released code's loop."""
    device = next(backbone.parameters()).device
    # In memory and in fp32 beforehand, as there.
    images = reader.read(
        pool.first_pairs,
        images=reader.images[pool.first_pairs],
        matched=torch.ones(len(pool.first_pairs), dtype=torch.bool),
        random_regions=torch.empty(len(pool.first_pairs), 0),
    ).to(device)
    features, boxes = images.features.float(), images.boxes
    columns = []
    for caption in pool.captions.tolist():
        token_ids, positions = (part.to(device) for part in reader.texts(torch.tensor([caption])))
        padding = (0, PADDED - token_ids.shape[1])
        one = [nn.functional.pad(part, padding) for part in (token_ids, positions, torch.ones_like(token_ids).bool())]
        margins = []
        for some in torch.split(torch.arange(len(features), device=device), IMAGES_AT_ONCE):
            ids, places, mask = (part.repeat(len(some), 1) for part in one)
            text = backbone.embed_texts(ids, places, mask)
            regions, region_mask = backbone.embed_images(features[some], boxes[some], images.region_mask[some])
            biases = (~mask[:, None, None] * -10_000.0, ~region_mask[:, None, None] * -10_000.0)
            for layer in backbone.layers:
                text, regions = plain_layer(layer, text, regions, biases)  # type: ignore[arg-type]
            logits = head(backbone.pool(text, regions))
            margins.append(logits[:, 1] - logits[:, 0])
        columns.append(torch.cat(margins).cpu())
    return torch.stack(columns, dim=1)


def make_set(folder: Path, num_images: int) -> Reader:
    """Images and captions that are made up; image i has one caption, of LENGTHS[i % 4] pieces."""
    rng = np.random.default_rng(0)

    def examples() -> Iterator[tuple[RegionRecord, list[str]]]:
        for number in range(num_images):
            words = random_words(rng, LENGTHS[number % len(LENGTHS)] - 2)  # beside [CLS] and [SEP]
            features = np.maximum(rng.standard_normal((REGIONS, WIDTH)), 0).astype(np.float16)
            yield random_record(number, features, rng), [" ".join(words)]

    write_word_set(folder / "val", examples(), split="val")
    return Reader(open_set(folder / "val"))


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The seconds of each turn of one way, and its scores."""

    name: str
    seconds: list[float]
    scores: Tensor


def take_turns(ways: dict[str, Scores], repeats: int, device: torch.device) -> dict[str, Turns]:
    """Time all ways in turns after a warm-up, every second round in reverse."""
    clock = Clock(device)
    found = {name: Turns(name=name, seconds=[], scores=way()) for name, way in ways.items()}
    for repeat in range(repeats):
        for name in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            began = clock.now()
            ways[name]()
            found[name].seconds.append(clock.now() - began)
    return found


def recalls(scores: Tensor, image_of_caption: Tensor) -> dict[str, float]:
    """Image retrieval in percent, ties against us."""
    ranks = (scores >= scores.gather(0, image_of_caption[None])).sum(0) - 1
    return {f"R@{k}": 100 * float((ranks < k).double().mean()) for k in (1, 5, 10)}


def compare(found: dict[str, Turns], pool: Pool) -> list[dict[str, Any]]:
    """A row for each way."""
    released = found["released loop"]
    return [
        {
            "way": turns.name,
            "ms_per_pair": 1000 * statistics.median(turns.seconds) / turns.scores.numel(),
            "ratio": statistics.median(ratios),
            "ratio_range": (min(ratios), max(ratios)),
            "largest_difference": float((turns.scores - released.scores).abs().max()),
            "spread_of_scores": float(released.scores.std(correction=0)),
            "same_order_ratio": float((turns.scores.argsort(0) == released.scores.argsort(0)).all(0).double().mean()),
            "image_retrieval": recalls(turns.scores, pool.image_of_caption),
        }
        for turns in found.values()
        for ratios in [[ours / theirs for ours, theirs in zip(released.seconds, turns.seconds, strict=True)]]
    ]


def show(rows: list[dict[str, Any]], title: str, *, is_trained: bool) -> Table:
    """The rows as a table; recalls only where they mean something."""
    headers = ["", "ms/pair", "pairs/s", "times the loop", "largest difference", *("R@1", "R@5", "R@10") * is_trained]
    cells = []
    for row in rows:
        low, high = row["ratio_range"]
        cells.append(
            [
                row["way"],
                f"{row['ms_per_pair']:.2f}",
                f"{1000 / row['ms_per_pair']:,.1f}",
                f"{row['ratio']:.2f} [{low:.2f}-{high:.2f}]",
                f"{row['largest_difference']:.1e} (spread {row['spread_of_scores']:.1e})",
                *[f"{value:.1f}" for value in row["image_retrieval"].values()] * is_trained,
            ]
        )
    return number_table(title, headers, cells)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The model and the pairs that all ways score."""

    backbone: Backbone
    head: MatchHead
    reader: Reader
    pool: Pool


def trained(checkpoint: Path, shards: Path, images: int) -> Contest:
    """A trained model and the first images of a held-out set, each with its first caption."""
    held_out = open_set(shards)
    model = load_trained(checkpoint, shards=held_out, needed_heads=("match",), preset=None)
    head, reader = cast(MatchHead, model.heads["match"]), Reader(held_out)
    pool = choose_pool(reader, num_images=images, captions_per_image=1)
    return Contest(backbone=model.backbone, head=head, reader=reader, pool=pool)


def made_up(preset: str, folder: Path, images: int, captions: int) -> Contest:
    """Random weights, and images with the captions of the first few."""
    torch.manual_seed(0)
    backbone = Backbone(get_preset(preset).model).eval()
    reader = make_set(folder, images)
    every = choose_pool(reader)
    pool = Pool(
        first_pairs=every.first_pairs,
        captions=every.captions[:captions],
        image_of_caption=every.image_of_caption[:captions],
    )
    return Contest(backbone=backbone, head=MatchHead(backbone.config, backbone).eval(), reader=reader, pool=pool)


def ways_of(contest: Contest, device: torch.device, *, bf16: bool | None) -> dict[str, Scores]:
    """The loop first, then ours in each precision that is measured."""
    backbone, head, reader, pool = contest.backbone.to(device), contest.head.to(device), contest.reader, contest.pool
    if backbone.config.encoder != "cross":
        raise InputError("the released code has two streams; take a preset of that encoder, as paper or tiny")
    ways: dict[str, Scores] = {
        "released loop": lambda: released_scores(backbone, head, reader, pool),
        "ours, fp32": lambda: PairScorer(backbone, head).scores(reader, pool),
    }
    if bf16 or (bf16 is None and multiplies_bf16(device)):
        ways["ours, bf16"] = lambda: PairScorer(backbone, head, precision="bf16").scores(reader, pool)
    return ways


def main(  # noqa: PLR0913  one parameter a flag
    checkpoint: Annotated[Path | None, typer.Option(help="A trained model. [random weights]")] = None,
    shards: Annotated[Path | None, typer.Option(help="Its held-out set. [made up]")] = None,
    preset: Annotated[str, typer.Option(help="Without a checkpoint.")] = "paper",
    images: Annotated[int, typer.Option(min=1, help="Images, each with its first caption.")] = 64,
    captions: Annotated[int, typer.Option(min=1, help="Without a checkpoint: of so many images only.")] = len(LENGTHS),
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each way.")] = 5,
    bf16: Annotated[bool | None, typer.Option(help="Measure bf16 too. [where the hardware multiplies it]")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Measure retrieval beside the released code's loop."""
    torch.set_num_threads(1)
    where = choose_device(device)
    with tempfile.TemporaryDirectory() as scratch:
        if checkpoint is None or shards is None:
            if checkpoint is not shards:
                raise InputError("a checkpoint needs its held-out set and the other way round; give both or neither")
            contest = made_up(preset, Path(scratch), images, captions)
        else:
            contest = trained(checkpoint, shards, images)
        found = take_turns(ways_of(contest, where, bf16=bf16), repeats, where)
    rows = compare(found, contest.pool)
    pairs = f"{images} images x {len(contest.pool.captions)} captions, medians of {repeats} turns"
    machine = hardware(where)
    title = f"{pairs}, torch {torch.__version__}, {machine['device']}, {machine['threads']} thread"
    Terminal(width=140).print(show(rows, title, is_trained=checkpoint is not None))
    write_figures({**machine, "pairs": pairs, "ways": rows}, out, Terminal())


if __name__ == "__main__":
    run_tool(lambda: typer.run(main))
