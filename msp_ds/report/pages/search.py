"""`msp-ds search`: the images that fit a text, or the texts that fit an image and the images like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from msp_ds.library import Image, Match, Model
from msp_ds.progress import bars
from msp_ds.report.pages.page import render
from msp_ds.report.pages.svg import boxes_to_scale
from msp_ds.report.shard_set import sample_lines
from msp_ds.terminal import Table, styled

DRAWN = 3
"""Images drawn in the terminal; the page shows all."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An image that was found."""

    sample: dict[str, Any]
    """The image as preparation.verifying.inspection describes it."""
    value: float
    """Probability that the image fits the text, 0 to 1; or its cosine similarity to the query image, -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The results of a search."""

    sought: str
    """The text, or the id of the query image."""
    where: str
    """The model and the set, for people."""
    hits: tuple[Hit, ...]
    """Images, best first."""
    query_image: dict[str, Any] | None = None
    """The image whose texts and neighbours were searched; None for a search by text."""
    captions: tuple[Match, ...] = ()
    """The texts of the set that fit the query image best, best first."""

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The images to show: the query image, if there is one, and the hits."""
        return [*([self.query_image] if self.query_image else []), *(hit.sample for hit in self.hits)]

    @property
    def measure(self) -> str:
        """Name of what the values of the hits measure."""
        return "likeness" if self.query_image else "match"


def find_images(model: Model, text: str, *, top: int) -> Finding:
    """Search the images that fit a text, with progress. Raises: InputError for a text without a word."""
    with bars() as progress:
        progress.start("searching", len(model.image_ids))
        found = model.search(text, top=top, advance=progress.advance)
    return Finding(
        sought=text, where=_where(model), hits=_hits(model, [(match.image_id, match.probability) for match in found])
    )


def find_about(model: Model, image: Image, *, top: int) -> Finding:
    """Search the texts that fit an image and the images like it. Raises: InputError for an unknown image."""
    described = model.describe(image)
    with bars() as progress:
        progress.start("reading texts", len(model.reader.keys))
        captions = model.captions(image, top=top, advance=progress.advance)
        progress.start("reading images", len(model.image_ids))
        near = model.nearest(image, top=top, advance=progress.advance)
    return Finding(
        sought=str(image),
        where=_where(model),
        hits=_hits(model, near),
        query_image=described,
        captions=tuple(captions),
    )


def finding_shown(finding: Finding) -> list[RenderableType]:
    """Return a finding for the terminal: the query image, the ranks, and drawings of the best images."""
    shown: list[RenderableType] = []
    title = f"Images that fit “{finding.sought}”"
    if finding.query_image is not None:
        title = f"Images like {finding.sought}"
        texts = [(f"{one.probability:.3f}", one.text, "yes" if one.is_own else "") for one in finding.captions]
        shown += sample_lines(finding.query_image)
        shown.append(_ranking(f"Texts that fit {finding.sought}", ("match", "text", "its own"), texts))
    images = [(f"{hit.value:.3f}", hit.sample["image_id"], hit.sample["texts"][0]) for hit in finding.hits]
    shown.append(_ranking(title, (finding.measure, "image", "its first text"), images))
    for rank, hit in enumerate(finding.hits[:DRAWN], start=1):
        shown += [styled((f"{rank}. {finding.measure} {hit.value:.3f}", "bold")), *sample_lines(hit.sample)]
    return shown


def finding_page(finding: Finding, *, pictures: Mapping[str, str]) -> str:
    """Return a finding as an HTML page. pictures: data: addresses of the image files that exist, by image id."""
    title = finding.sought if finding.query_image else f"“{finding.sought}”"
    return render("search.html", finding=finding, title=title, pictures=pictures, boxes_to_scale=boxes_to_scale)


def _where(model: Model) -> str:
    return f"{model.checkpoint}, {len(model.image_ids):,} images of {model.shards.path}"


def _hits(model: Model, found: list[tuple[str, float]]) -> tuple[Hit, ...]:
    return tuple(Hit(sample=model.describe(image_id), value=value) for image_id, value in found)


def _ranking(title: str, columns: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> Table:
    table = Table(title=title, title_style="bold")
    for column, is_number in zip(("", *columns), (True, True, False, False), strict=True):
        table.add_column(column, justify="right" if is_number else "left")
    for rank, row in enumerate(rows, start=1):
        table.add_row(str(rank), *row)
    return table
