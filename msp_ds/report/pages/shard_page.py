"""A shard set as one HTML page: histograms, label frequencies, images as boxes to scale."""

from typing import Any

from markupsafe import Markup

from msp_ds.report.pages.page import render
from msp_ds.report.pages.svg import boxes_to_scale, histogram
from msp_ds.report.shard_set import as_text

SAMPLES = 12
"""Images drawn."""
_MIN_BARS = 13


def set_page(facts: dict[str, Any]) -> str:
    """Return the page of what preparation.verifying.inspection.inspect_set found."""
    pieces, regions = facts["texts"]["pieces_histogram"], facts["regions"]["per_image_histogram"]
    edges, counts = (facts["features"]["norm_histogram"][name] for name in ("edges", "counts"))
    return render(
        "shards.html",
        **facts,
        title=facts["set"]["path"],
        cards=_cards(facts),
        pieces_chart=_whole_numbers(pieces, what="texts by number of pieces"),
        regions_chart=_whole_numbers(regions, what="images by number of regions"),
        norms_chart=histogram(
            edges[:-1], counts, bar=edges[1] - edges[0], what="regions by the norm of their features"
        ),
        as_text=as_text,
        boxes_to_scale=boxes_to_scale,
    )


def _cards(facts: dict[str, Any]) -> dict[str, str]:
    whole, texts = facts["set"], facts["texts"]
    return {
        "images": as_text(whole["images"]),
        "texts": as_text(whole["pairs"]),
        "texts an image": f"{texts['texts_per_image']:.2f}",
        "texts cut": f"{100 * texts['truncated_ratio']:.1f} %",
        "regions an image": f"{facts['regions']['per_image']['mean']:.1f}",
        "in tars": f"{whole['bytes'] / 1e9:.1f} GB" if whole["bytes"] >= 1e9 else f"{whole['bytes'] / 1e6:.0f} MB",
        "hard negatives": as_text(whole["with_hard_negatives"]),
        "word pieces": as_text(whole["vocabulary"]),
    }


def _whole_numbers(counts: dict[int, int], *, what: str) -> Markup:
    # A few values stand as slim bars among empty places, not as one block.
    spare = max(0, _MIN_BARS - (max(counts) - min(counts)) - 1) // 2
    starts = range(max(0, min(counts) - spare), max(counts) + spare + 1)
    return histogram(starts, [counts.get(number, 0) for number in starts], bar=1, what=what)
