"""What several models make of the same images: the paper's figure 3 (answers) and figure 4 (captions) as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from torch import Tensor

from msp_ds.errors import InputError
from msp_ds.library import Model, WordAttention
from msp_ds.preparation.verifying.inspection import samples_of
from msp_ds.progress import Bars
from msp_ds.storage.small_files import read_small_text, reason
from msp_ds.terminal import Table, printable, styled
from msp_ds.training.checkpointing.run_folder import find_checkpoint, origin_of

NAMED = 6
"""Regions of a picture that carry their names."""
DARKEST = 0.75
"""Of the colour that attention has in pictures, 1 hiding what lies behind it."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a distribution."""

    text: str
    """An answer or a caption."""
    chance: float
    """That it is right, by the model, 0 to 1."""
    is_right: bool | None
    """Whether it is, as far as the set knows; None where it does not know what is right."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one model says."""

    name: str
    """The model's, for people: t→p→s."""
    bars: tuple[Bar, ...]
    """Of an answer, the same answers in the same order for every model; of captions the model's own best first."""
    looks: WordAttention
    """Where the words of the question, or of the best caption, look."""

    @property
    def overall(self) -> Tensor:
        """float32 [R]: the share of attention on each region, mean over all words."""
        return self.looks.shares.mean(0)


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image with what each model says."""

    sample: dict[str, Any]
    """The image as data.inspection describes it."""
    question: str | None
    """None for captions."""
    right: tuple[str, ...]
    """Right answers that the set knows, best first; empty where it knows none, and for captions."""
    views: tuple[View, ...]
    """One a model, in the order that was asked for."""

    @property
    def title(self) -> str:
        """The question, or what was asked in its place."""
        return self.question or "Which caption fits?"


def named_models(checkpoints: Sequence[str], *, shards: Path) -> dict[str, Model]:
    """Models by name, in their order: `t→s=runs/ts` names a checkpoint, a run else has its folder's name.

    A curriculum's name is written with arrows, ts as t→s. Raises: InputError for two of one name, and what
    msp_ds.load refuses.
    """
    found: dict[str, Model] = {}
    for name, path in map(_named, checkpoints):
        if name in found:
            raise InputError(f"two checkpoints are called {name}; name them: --checkpoint NAME={path}")
        found[name] = Model.load(path, shards=shards)
    return found


def set_to_explain(checkpoints: Sequence[str], *, asks: bool) -> Path:
    """The held-out captions; for questions those that the first model was fine-tuned for: GQA's, else VQA's."""
    if not asks:
        return Path("shards/sentence/val")
    tuned_for = origin_of(find_checkpoint(_named(checkpoints[0])[1])).curriculum
    return Path("shards") / ("gqa" if tuned_for == "gqa" else "vqa") / "val"


def _named(given: str) -> tuple[str, Path]:
    """Name and place of a model, of `t→s=runs/ts` or `runs/ts`."""
    name, equals, rest = given.partition("=")
    path = Path(rest if equals else given)
    return (name if equals else arrowed(path.name or str(path))), path


def arrowed(name: str) -> str:
    """t→p→s of tps; any other name as it is."""
    return "→".join(name) if set(name) <= set("tps") and len(set(name)) == len(name) else name


def answers_explained(models: dict[str, Model], question: str, image_id: str, *, top: int) -> Example:
    """The likeliest answers of each model to a question about an image.

    Shown are those that are among the `top` of any model. Raises: InputError for an unknown image, a model without
    answers.
    """
    chances = {name: model.answer(question, image_id) for name, model in models.items()}
    leading = {answer for said in chances.values() for answer in list(said)[:top]}
    order = sorted(leading, key=lambda answer: -max(said[answer] for said in chances.values()))
    first = next(iter(models.values()))
    right = first.right_answers(question, image_id)
    views = tuple(
        View(
            name=name,
            bars=tuple(
                Bar(text=answer, chance=chances[name][answer], is_right=answer in right if right else None)
                for answer in order
            ),
            looks=model.looks(question, image_id),
        )
        for name, model in models.items()
    )
    return Example(sample=_sample(first, image_id), question=question, right=right, views=views)


def captions_explained(
    models: dict[str, Model], image_id: str, *, top: int, pool: Sequence[str], progress: Bars
) -> Example:
    """The captions of a pool that fit an image best by each model's match head; an empty pool is the set's own texts.

    Raises: InputError for an unknown image, a model without a match head.
    """
    views = []
    for name, model in models.items():
        progress.start(f"reading as {name}", len(pool) or len(model.reader.keys))
        matches = model.captions(image_id, pool=pool, top=top, advance=progress.advance)
        views.append(
            View(
                name=name,
                bars=tuple(Bar(text=one.text, chance=one.probability, is_right=one.is_own) for one in matches),
                looks=model.looks(matches[0].text, image_id),
            )
        )
    first = next(iter(models.values()))
    return Example(sample=_sample(first, image_id), question=None, right=(), views=tuple(views))


def examples_of(
    models: dict[str, Model],
    *,
    image_ids: Sequence[str],
    questions: Sequence[str],
    pool: Sequence[str],
    top: int,
    progress: Bars,
) -> list[Example]:
    """An example for each image: with its question, the only question, or captions where there is none.

    Raises: InputError when questions and images do not fit each other, and as the two above.
    """
    if len(questions) not in (0, 1, len(image_ids)):
        raise InputError(
            f"{len(questions)} questions and {len(image_ids)} images do not fit; ask one, or one for each --image"
        )
    if questions and pool:
        raise InputError("a question has answers, not captions; leave --pool out")
    for model in models.values():
        for image_id in image_ids:
            model.row_of(image_id)
    if not questions:
        return [captions_explained(models, image_id, top=top, pool=pool, progress=progress) for image_id in image_ids]
    asked = list(questions) * (len(image_ids) if len(questions) == 1 else 1)
    return [
        answers_explained(models, question, image_id, top=top)
        for question, image_id in zip(asked, image_ids, strict=True)
    ]


def explanation_lines(examples: Sequence[Example]) -> list[RenderableType]:
    """Examples for the terminal: what each model says, and what its words look at most."""
    shown: list[RenderableType] = []
    for example in examples:
        right = f"  (right: {', '.join(example.right)})" if example.right else ""
        table = Table(title=f"{example.sample['image_id']}: {example.title}{right}", title_justify="left")
        for column in ("model", "says", "looks most at"):
            table.add_column(column)
        for view in example.views:
            bars = sorted(view.bars, key=lambda bar: -bar.chance)
            said = "\n".join(f"{bar.chance:.3f} {printable(bar.text)}{' ✓' if bar.is_right else ''}" for bar in bars)
            table.add_row(view.name, styled(said), told_looks(example.sample, view.overall))
        shown.append(table)
    return shown


def told_looks(sample: dict[str, Any], shares: Tensor) -> str:
    """The regions that are looked at most, of float32 [R] `shares`: `white horse 0.31, path 0.12`."""
    found = []
    for place in shares.argsort(descending=True)[:3].tolist():
        name = " ".join(filter(None, (sample["attributes"][place], sample["labels"][place] or "no label")))
        found.append(f"{name} {float(shares[place]):.2f}")
    return ", ".join(found)


def darkness(shares: Tensor) -> Tensor:
    """How dark each box is drawn, 0 to DARKEST, for float32 [R] `shares`: from the smallest to the largest.

    Squared, for where many boxes lie on each other even faint colours add up.
    """
    span = (shares.max() - shares.min()).clamp(min=1e-9)
    return DARKEST * ((shares - shares.min()) / span).square()


def most_looked_at(sample: dict[str, Any], shares: Tensor) -> list[int]:
    """The regions with the largest float32 [R] `shares`, largest first, at most NAMED and each of another label."""
    first: dict[str, int] = {}
    for place in shares.argsort(descending=True).tolist():
        first.setdefault(sample["labels"][place], place)
    return [place for label, place in first.items() if label][:NAMED]


def read_pool(path: Path | None) -> list[str]:
    """The captions in a file, one a line; none without a file. Raises: InputError for one that cannot be read."""
    if path is None:
        return []
    try:
        lines = read_small_text(path, what="a text of one caption a line").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); it should hold one caption a line") from None
    captions = [line.strip() for line in lines if line.strip()]
    if not captions:
        raise InputError(f"{path} holds no caption; it should hold one a line")
    return captions


def _sample(model: Model, image_id: str) -> dict[str, Any]:
    return samples_of(model.shards, [model.row_of(image_id)])[0]
