"""What several models predict about the same images: the paper's figures 3 (answers) and 4 (captions) as data."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from torch import Tensor

from msp_ds.errors import InputError
from msp_ds.library import Model, WordAttention
from msp_ds.progress import Bars
from msp_ds.storage.small_files import read_small_text, reason
from msp_ds.terminal import Table, printable, styled
from msp_ds.training.checkpointing.run_folder import find_checkpoint, origin_of

MAX_NAMED = 6
"""Regions of a picture that carry their names."""
MAX_OPACITY = 0.75
"""Opacity of the largest attention weight; 1 would hide the picture behind it."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a distribution."""

    text: str
    """An answer or a caption."""
    probability: float
    """The model's probability that the text is right, 0 to 1."""
    is_right: bool | None
    """Whether the set knows the text to be right; None where the set holds no right answer."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one model predicts about an image."""

    name: str
    """Name of the model for people: t→p→s."""
    bars: tuple[Bar, ...]
    """The same answers in the same order for every model, or the model's own captions, the best first."""
    attention: WordAttention
    """Attention of the words of the question, or of the best caption."""

    @property
    def overall(self) -> Tensor:
        """float32 [R]: attention weight of each region, mean over all words."""
        return self.attention.weights.mean(0)


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image with the view of each model."""

    sample: dict[str, Any]
    """The image as preparation.verifying.inspection describes it."""
    question: str | None
    """None for captions."""
    right: tuple[str, ...]
    """Right answers that the set knows, the best first; empty where it knows none, and for captions."""
    views: tuple[View, ...]
    """One for each model, in the order of the command line."""

    @property
    def title(self) -> str:
        """The question, or its stand-in for captions."""
        return self.question or "Which caption fits?"

    @property
    def heading(self) -> str:
        """The image, the title and the right answers in one line."""
        right = f"  (right: {', '.join(self.right)})" if self.right else ""
        return f"{self.sample['image_id']}: {self.title}{right}"


def named_models(checkpoints: Sequence[str], **how: Any) -> dict[str, Model]:
    """Load models by name, in their order: `t→s=runs/ts` names a checkpoint, else its folder names it.

    The name of a curriculum is written with arrows, ts as t→s. how: arguments of msp_ds.load. Raises: InputError for
    two of one name, and what msp_ds.load raises.
    """
    found: dict[str, Model] = {}
    for name, path in map(_name_and_path, checkpoints):
        if name in found:
            raise InputError(f"two checkpoints are called {name}; name them: --checkpoint NAME={path}")
        found[name] = Model.load(path, **how)
        if how.get("detector") is not None:
            how["detector"] = found[name].regions.detector  # opened once for all
    return found


def set_to_explain(checkpoints: Sequence[str], images: Sequence[str], *, has_question: bool) -> Path | None:
    """Return the default set: held-out captions, or the questions that the first model was fine-tuned for.

    It is that of each model, None, where all images are picture files.
    """
    if all(map(os.path.isfile, images)):
        return None
    if not has_question:
        return Path("shards/sentence/val")
    tuned_for = origin_of(find_checkpoint(_name_and_path(checkpoints[0])[1])).curriculum
    return Path("shards") / ("gqa" if tuned_for == "gqa" else "vqa") / "val"


def _name_and_path(checkpoint: str) -> tuple[str, Path]:
    """Split `t→s=runs/ts`, or derive the name from `runs/ts`."""
    name, equals, rest = checkpoint.partition("=")
    path = Path(rest if equals else checkpoint)
    return (name if equals else arrowed(path.name or str(path))), path


def arrowed(name: str) -> str:
    """Return t→p→s for tps, and any other name as it is."""
    return "→".join(name) if set(name) <= set("tps") and len(set(name)) == len(name) else name


def answers_explained(models: dict[str, Model], question: str, image_id: str, *, top: int) -> Example:
    """Return the most probable answers of each model to a question about an image: the `top` of any model.

    Raises: InputError for an unknown image, CheckpointError for a model without an answer head.
    """
    answers = {name: model.answer(question, image_id) for name, model in models.items()}
    leading = {answer for probabilities in answers.values() for answer in list(probabilities)[:top]}
    order = sorted(leading, key=lambda answer: -max(probabilities[answer] for probabilities in answers.values()))
    first = next(iter(models.values()))
    right = first.right_answers(question, image_id)
    views = tuple(
        View(
            name=name,
            bars=tuple(
                Bar(text=answer, probability=answers[name][answer], is_right=answer in right if right else None)
                for answer in order
            ),
            attention=model.attention(question, image_id),
        )
        for name, model in models.items()
    )
    return Example(sample=first.describe(image_id), question=question, right=right, views=views)


def captions_explained(
    models: dict[str, Model], image_id: str, *, top: int, pool: Sequence[str], progress: Bars
) -> Example:
    """Return the captions that fit an image best by each model's match head: of a pool, else of the set.

    Raises: InputError for an unknown image, CheckpointError for a model without a match head.
    """
    views, described = [], next(iter(models.values())).describe(image_id)
    for name, model in models.items():
        progress.start(f"reading as {name}", len(pool) or len(model.reader.keys))
        matches = model.captions(image_id, pool=pool, top=top, advance=progress.advance)
        bars = tuple(
            Bar(text=one.text, probability=one.probability, is_right=one.is_own if described["texts"] else None)
            for one in matches
        )
        views.append(View(name=name, bars=bars, attention=model.attention(matches[0].text, image_id)))
    return Example(sample=described, question=None, right=(), views=tuple(views))


def examples_of(
    models: dict[str, Model],
    *,
    image_ids: Sequence[str],
    questions: Sequence[str],
    pool: Sequence[str],
    top: int,
    progress: Bars,
) -> list[Example]:
    """Return an example for each image: with its question, the only question, or captions if there is no question.

    Raises: InputError when the numbers of questions and images do not fit, and what the two functions above raise.
    """
    one_each = paired(questions, image_ids) if questions else []
    if questions and pool:
        raise InputError("a question has answers, not captions; leave --pool out")
    for model in models.values():
        for image_id in image_ids:
            model.locate(image_id)
    if not questions:
        return [captions_explained(models, image_id, top=top, pool=pool, progress=progress) for image_id in image_ids]
    return [answers_explained(models, question, image_id, top=top) for question, image_id in one_each]


def paired(questions: Sequence[str], image_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return each image with its question, or the only one. Raises: InputError when their numbers do not fit."""
    if len(questions) not in (1, len(image_ids)):
        raise InputError(
            f"{len(questions)} questions and {len(image_ids)} images do not fit; ask one, or one for each --image"
        )
    return list(zip(itertools.cycle(questions), image_ids, strict=False))


def answer_tables(
    model: Model, image_ids: Sequence[str], questions: Sequence[str], *, top: int
) -> list[RenderableType]:
    """Return a heading and a table for each image: the `top` most probable answers to its question, or the only one."""
    shown: list[RenderableType] = []
    for question, image_id in paired(questions, image_ids):
        table = Table("answer", "probability")
        for answer, probability in list(model.answer(question, image_id).items())[:top]:
            table.add_row(answer, f"{probability:.3f}")
        heading = (f"{printable(image_id)}: {printable(question)}\n", "bold")
        shown += [styled(heading, (printable(model.describe(image_id)["source"]), "dim")), table]
    return shown


def explanation_lines(examples: Sequence[Example]) -> list[RenderableType]:
    """Return tables for the terminal: what each model predicts, and the regions with the most attention."""
    shown: list[RenderableType] = []
    for example in examples:
        table = Table("model", "says", "looks most at", title=example.heading)
        for view in example.views:
            bars = sorted(view.bars, key=lambda bar: -bar.probability)
            lines = [f"{bar.probability:.3f} {printable(bar.text)}{' ✓' if bar.is_right else ''}" for bar in bars]
            table.add_row(view.name, styled("\n".join(lines)), top_regions(example.sample, view.overall))
        shown.append(table)
    return shown


def top_regions(sample: dict[str, Any], weights: Tensor) -> str:
    """Return the regions with the largest float32 [R] attention `weights` as text: `white horse 0.31, path 0.12`."""
    found = []
    for region in weights.argsort(descending=True)[:3].tolist():
        name = " ".join(filter(None, (sample["attributes"][region], sample["labels"][region] or f"region {region}")))
        found.append(f"{name} {float(weights[region]):.2f}")
    return ", ".join(found)


def opacities(weights: Tensor) -> Tensor:
    """Return the opacity of each box, from 0 for the smallest of float32 [R] `weights` to MAX_OPACITY for the largest.

    It grows with the square, since faint colours add up where many boxes overlap.
    """
    span = (weights.max() - weights.min()).clamp(min=1e-9)
    return MAX_OPACITY * ((weights - weights.min()) / span).square()


def named_regions(sample: dict[str, Any], weights: Tensor) -> list[int]:
    """Return the regions with the largest float32 [R] `weights`, largest first: at most MAX_NAMED, one for a label."""
    first: dict[str, int] = {}
    for region in weights.argsort(descending=True).tolist():
        first.setdefault(sample["labels"][region], region)
    return [region for label, region in first.items() if label][:MAX_NAMED]


def read_pool(path: Path | None) -> list[str]:
    """Read captions from a file, one a line; return none without a file. Raises: InputError if it cannot be read."""
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
