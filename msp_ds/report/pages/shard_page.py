"""A shard set as one HTML page that needs nothing else: histograms, label frequencies, images as boxes to scale."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from msp_ds.report.pages.page import html_page, write_html
from msp_ds.report.pages.svg import boxes_to_scale, histogram
from msp_ds.report.shard_set import said

SAMPLES = 12
"""Images drawn."""
_FEWEST_BARS = 13

_STYLE = """
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1.2rem; }
.panel { background: var(--card); border-radius: .5rem; padding: 1rem 1.1rem; min-width: 0; }
.chart { margin-top: .6rem; } .chart rect { fill: var(--bar); } .chart line { stroke: var(--line); }
.chart text { fill: var(--soft); font-size: 12px; text-anchor: middle; } .chart .peak { text-anchor: start; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td { padding: .13rem 0; white-space: nowrap; } td:first-child { padding-right: .8rem; text-align: right; }
td:nth-child(2) { width: 100%; } td:last-child { padding-left: .8rem; text-align: right; color: var(--soft);
  font-variant-numeric: tabular-nums; }
td i { display: block; height: .72rem; min-width: 1px; background: var(--bar); border-radius: 2px; }
"""


def write_page(path: Path, facts: dict[str, Any]) -> None:
    """Write the page of what data.inspection.inspect_set found. Raises: InputError when it cannot be written."""
    write_html(path, set_page(facts))


def set_page(facts: dict[str, Any]) -> str:
    """The page."""
    parts = (_head(facts), _lengths(facts), _features(facts), _labels(facts), _samples(facts))
    return html_page("\n".join(parts), title=facts["set"]["path"], style=_STYLE)


def _head(facts: dict[str, Any]) -> str:
    whole, texts = facts["set"], facts["texts"]
    cards = {
        "images": said(whole["images"]),
        "texts": said(whole["pairs"]),
        "texts an image": f"{texts['texts_per_image']:.2f}",
        "texts cut": f"{100 * texts['truncated_share']:.1f} %",
        "regions an image": f"{facts['regions']['per_image']['mean']:.1f}",
        "in tars": f"{whole['bytes'] / 1e9:.1f} GB" if whole["bytes"] >= 1e9 else f"{whole['bytes'] / 1e6:.0f} MB",
        "hard negatives": said(whole["with_hard_negatives"]),
        "word pieces": said(whole["vocabulary"]),
    }
    drawn = "".join(
        f'<div><b>{escape(value)}</b><span class="soft">{name}</span></div>' for name, value in cards.items()
    )
    counts = ", ".join(f"{escape(name.replace('_', ' '))} {count:,}" for name, count in texts["counts"].items())
    return (
        f"<h1>{escape(whole['path'])}</h1>"
        f'<p class="soft">stage {escape(whole["stage"])}, split {escape(whole["split"])} · features: '
        f"{escape(whole['extractor'] or 'extractor not named')} · {counts}</p>"
        f'<div class="cards">{drawn}</div>'
    )


def _lengths(facts: dict[str, Any]) -> str:
    texts, regions = facts["texts"], facts["regions"]
    return (
        '<h2>Lengths</h2><div class="pair">'
        + _panel(
            "Pieces of a text",
            f"[CLS] and [SEP] included; longer than {texts['longest_allowed']} is cut",
            texts["pieces"],
            _whole_numbers(texts["pieces_histogram"], what="texts by number of pieces"),
        )
        + _panel(
            "Regions of an image",
            "all images",
            regions["per_image"],
            _whole_numbers(regions["per_image_histogram"], what="images by number of regions"),
        )
        + "</div>"
    )


def _features(facts: dict[str, Any]) -> str:
    features = facts["features"]
    edges, counts = features["norm_histogram"]["edges"], features["norm_histogram"]["counts"]
    drawing = histogram(edges[:-1], counts, bar=edges[1] - edges[0], what="regions by the norm of their features")
    names = ("width", "mean", "deviation", "smallest", "largest", "zero_share")
    rows = "".join(
        f"<tr><td>{name.replace('_', ' ')}</td><td></td><td>{said(features[name])}</td></tr>" for name in names
    )
    return (
        '<h2>Features</h2><div class="pair">'
        + _panel("Norm of a region's features", f"{features['images_sampled']} images", features["norm"], drawing)
        + '<div class="panel"><h3>All numbers</h3><p class="soft">another extractor shows here</p>'
        + f"<table>{rows}</table></div></div>"
    )


def _labels(facts: dict[str, Any]) -> str:
    labels = facts["labels"]
    panels = []
    for kind in ("objects", "attributes"):
        part = labels[kind]
        most = max(part["most_frequent"].values(), default=1)
        rows = "".join(
            f'<tr><td>{escape(name)}</td><td><i style="width:{100 * count / most:.1f}%"></i></td>'
            f"<td>{count:,}</td></tr>"
            for name, count in part["most_frequent"].items()
        )
        panels.append(
            f'<div class="panel"><h3>{kind.capitalize()}</h3><p class="soft">{100 * part["labelled_share"]:.1f} % of '
            f"regions labelled; {part['seen']:,} of {part['of']:,} labels seen among {labels['images_sampled']} images"
            f"</p><table>{rows}</table></div>"
        )
    return f'<h2>Labels</h2><div class="pair">{"".join(panels)}</div>'


def _samples(facts: dict[str, Any]) -> str:
    figures = []
    for sample in facts["samples"]:
        texts = "".join(f"<li>{escape(text)}</li>" for text in sample["texts"])
        figures.append(
            f"<figure>{boxes_to_scale(sample)}<figcaption><b>{escape(sample['image_id'])}</b> "
            f'<span class="soft">{sample["width"]} × {sample["height"]}, {sample["regions"]} regions, '
            f"{escape(sample['source'])}</span><ul>{texts}</ul></figcaption></figure>"
        )
    return (
        '<h2>Images</h2><p class="soft">Boxes to scale; the largest of different labels are named, the pointer tells '
        f'the others.</p><div class="samples">{"".join(figures)}</div>'
    )


def _panel(title: str, note: str, spread: dict[str, float], drawing: str) -> str:
    figures = ", ".join(f"{name} {said(spread[name])}" for name in ("mean", "min", "p50", "p90", "p99", "max"))
    return f'<div class="panel"><h3>{title}</h3><p class="soft">{note}; {figures}</p>{drawing}</div>'


def _whole_numbers(counts: dict[int, int], *, what: str) -> str:
    # A few values stand as slim bars among empty places, not as one block.
    spare = max(0, _FEWEST_BARS - (max(counts) - min(counts)) - 1) // 2
    starts = range(max(0, min(counts) - spare), max(counts) + spare + 1)
    return histogram(starts, [counts.get(number, 0) for number in starts], bar=1, what=what)
