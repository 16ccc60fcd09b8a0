"""What a search found as one HTML page: every image with its regions to scale, over the picture where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from msp_ds.report.pages.page import html_page
from msp_ds.report.pages.search import Finding
from msp_ds.report.pages.svg import boxes_to_scale

_STYLE = """
.asked { display: grid; grid-template-columns: minmax(16rem, 30rem) minmax(18rem, 1fr); gap: 1.6rem; margin-top: 1.6rem;
  align-items: start; }
@media (max-width: 44rem) { .asked { grid-template-columns: 1fr; } }
ol { margin: 0; padding: 0; list-style: none; counter-reset: rank; }
ol li { counter-increment: rank; display: grid; grid-template-columns: 1.6rem 3.4rem 1fr; gap: .6rem;
  padding: .3rem 0; border-bottom: 1px solid var(--line); align-items: baseline; }
ol li::before { content: counter(rank); color: var(--soft); text-align: right; }
ol b, .value { font-variant-numeric: tabular-nums; }
.own { color: var(--bar); font-size: .85rem; white-space: nowrap; }
.value { float: right; color: var(--soft); } .meter { height: .3rem; border-radius: .15rem; background: var(--line);
  margin: .35rem 0 .3rem; } .meter i { display: block; height: 100%; border-radius: .15rem; background: var(--bar); }
"""


def finding_page(finding: Finding, *, pictures: Mapping[str, str]) -> str:
    """The page. pictures: data: addresses of the image files that there are, by image id."""
    title = finding.sought if finding.asked else f"“{finding.sought}”"
    heading = "Images like it" if finding.asked else "Images that fit"
    figures = "".join(
        _figure(hit.sample, pictures, rank=rank, value=hit.value) for rank, hit in enumerate(finding.hits, start=1)
    )
    note = (
        "Likeness: the cosine of what the model makes of the regions before they meet a text, less the set's mean."
        if finding.asked
        else "Match: the chance that text and image belong together, by the match head."
    )
    body = (
        f'<h1>{escape(title)}</h1><p class="soft">{escape(finding.where)}</p>{_about(finding, pictures)}'
        f'<h2>{heading}</h2><p class="soft">{note} Boxes to scale; the pointer tells the labels of all.</p>'
        f'<div class="samples">{figures}</div>'
    )
    return html_page(body, title=title, style=_STYLE)


def _about(finding: Finding, pictures: Mapping[str, str]) -> str:
    """The image that was asked about beside the texts that fit it."""
    if finding.asked is None:
        return ""
    texts = "".join(
        f"<li><b>{match.probability:.3f}</b><span>{escape(match.text)}"
        f"{' <span class=own>its own</span>' if match.is_own else ''}</span></li>"
        for match in finding.captions
    )
    return (
        f'<div class="asked">{_figure(finding.asked, pictures)}<div><h3>Texts of the set that fit it best</h3>'
        f"<ol>{texts}</ol></div></div>"
    )


def _figure(sample: dict[str, Any], pictures: Mapping[str, str], *, rank: int = 0, value: float = 0.0) -> str:
    ranked = f'<span class="value">{value:.3f}</span>{rank}. ' if rank else ""
    meter = f'<div class="meter"><i style="width:{100 * max(0.0, value):.1f}%"></i></div>' if rank else ""
    texts = "".join(f"<li>{escape(text)}</li>" for text in sample["texts"])
    return (
        f"<figure>{boxes_to_scale(sample, picture=pictures.get(sample['image_id'], ''))}<figcaption>{ranked}"
        f"<b>{escape(sample['image_id'])}</b>{meter}<ul class=soft>{texts}</ul></figcaption></figure>"
    )
