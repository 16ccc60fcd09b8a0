"""`msp-ds search`: the images that fit a text, or the texts that fit an image and the images like it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from msp_ds.library import Match, Model
from msp_ds.preparation.verifying.inspection import samples_of
from msp_ds.progress import bars
from msp_ds.report.shard_set import drawn
from msp_ds.terminal import Table, styled

DRAWN = 3
"""Images drawn in the terminal; the page shows all."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An image that was found."""

    sample: dict[str, Any]
    """As data.inspection describes it."""
    value: float
    """The chance that it fits the text, 0 to 1; or its likeness to the image that was asked about, -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a search found."""

    sought: str
    """The text, or the image's id."""
    where: str
    """The model and the set, for people."""
    hits: tuple[Hit, ...]
    """Images, best first."""
    asked: dict[str, Any] | None = None
    """The image that was asked about, as data.inspection describes it; None where a text was."""
    captions: tuple[Match, ...] = ()
    """The texts of the set that fit that image best, best first."""

    @property
    def samples(self) -> list[dict[str, Any]]:
        """All images that are shown."""
        return [*([self.asked] if self.asked else []), *(hit.sample for hit in self.hits)]

    @property
    def measure(self) -> str:
        """What the values of the hits are."""
        return "likeness" if self.asked else "match"


def find_images(model: Model, text: str, *, top: int) -> Finding:
    """The images of the set that fit a text, with progress. Raises: InputError for a text without a word."""
    with bars() as progress:
        progress.start("searching", len(model.image_ids))
        found = model.search(text, top=top, advance=progress.advance)
    return Finding(
        sought=text, where=_where(model), hits=_hits(model, [(match.image_id, match.probability) for match in found])
    )


def find_about(model: Model, image_id: str, *, top: int) -> Finding:
    """The texts of the set that fit an image, and the images like it. Raises: InputError for an unknown image."""
    row = model.row_of(image_id)
    with bars() as progress:
        progress.start("reading texts", len(model.reader.keys))
        captions = model.captions(image_id, top=top, advance=progress.advance)
        progress.start("reading images", len(model.image_ids))
        near = model.nearest(image_id, top=top, advance=progress.advance)
    return Finding(
        sought=image_id,
        where=_where(model),
        hits=_hits(model, near),
        asked=samples_of(model.shards, [row])[0],
        captions=tuple(captions),
    )


def finding_shown(finding: Finding) -> list[RenderableType]:
    """A finding for the terminal: the image that was asked about, the ranks, and the best images drawn."""
    shown: list[RenderableType] = []
    if finding.asked is not None:
        shown += [*drawn(finding.asked), _caption_table(finding)]
    shown.append(_image_table(finding))
    for rank, hit in enumerate(finding.hits[:DRAWN], start=1):
        shown += [styled((f"{rank}. {finding.measure} {hit.value:.3f}", "bold")), *drawn(hit.sample)]
    return shown


def _where(model: Model) -> str:
    return f"{model.checkpoint}, {len(model.image_ids):,} images of {model.shards.path}"


def _hits(model: Model, found: list[tuple[str, float]]) -> tuple[Hit, ...]:
    samples = samples_of(model.shards, [model.row_of(image_id) for image_id, _ in found])
    return tuple(Hit(sample=sample, value=value) for sample, (_, value) in zip(samples, found, strict=True))


def _caption_table(finding: Finding) -> Table:
    table = _table(f"Texts that fit {finding.sought}", "match", "text", "its own")
    for rank, match in enumerate(finding.captions, start=1):
        table.add_row(str(rank), f"{match.probability:.3f}", match.text, "yes" if match.is_own else "")
    return table


def _image_table(finding: Finding) -> Table:
    title = f"Images like {finding.sought}" if finding.asked else f"Images that fit “{finding.sought}”"
    table = _table(title, finding.measure, "image", "its first text")
    for rank, hit in enumerate(finding.hits, start=1):
        table.add_row(str(rank), f"{hit.value:.3f}", hit.sample["image_id"], hit.sample["texts"][0])
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", justify="right")
    for column in columns:
        table.add_column(column, justify="right" if column in ("match", "likeness") else "left")
    return table
