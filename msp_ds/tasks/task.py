"""What a pre-training task is: a value with a name, what it does to the input, the heads it reads and its score.

An eighth task is one file ending in one `Task(...)` and its name in a stage of curriculum.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from msp_ds.chance import uniform
from msp_ds.config import TaskOptions
from msp_ds.records import Batch, Encoded, Lexicon, Tally


@dataclass(frozen=True, kw_only=True)
class Context:
    """What corruptions and scores may know beside the batch."""

    seed: int
    epoch: int
    options: TaskOptions
    lexicon: Lexicon
    feature_mean: Tensor
    """float32 [F]: the mean region feature of the training images, the yardstick of MRFR and IFRS."""

    def draw(self, keys: Tensor, purpose: str, n: int) -> Tensor:
        """float32 [len(keys), n] in [0, 1): this epoch's chance for `purpose`, a function of each key alone."""
        return uniform(seed=self.seed, epoch=self.epoch, keys=keys, purpose=purpose, n=n)


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """A change to the input that tasks share: MOC and MRFR must ask about the same masked regions."""

    name: str
    order: int
    """Smaller first: the order of regions changes before content is masked."""
    apply: Callable[[Batch, Context], Batch]
    num_strays: int = 0
    """Stray regions that it needs in the batch."""


class ChosenImages(NamedTuple):
    """The images that B texts get."""

    rows: Tensor
    """int64 [B]."""
    matched: Tensor
    """bool [B]: the image is the text's own."""
    tallies: Mapping[str, Tally]
    """What there is to know of the choice, none where all images were at hand."""


@dataclass(frozen=True, kw_only=True)
class ImageChoice:
    """A change of the pair itself, made before the image is read: which image each text gets."""

    choose: Callable[[Tensor, Tensor, Tensor | None, int, Context, Tensor | None], ChosenImages]
    """(keys [B], own image rows [B], look-alikes [N, K] or None, N, context, image rows at hand [n] or None)."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one task says of one batch."""

    loss: Tensor
    """float32 scalar, zero when nothing was asked."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """Metrics as `accuracy/mlm`; the loss is added by the caller."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A pre-training task."""

    name: str
    heads: tuple[str, ...]
    """Names in model.heads.HEADS."""
    score: Callable[[nn.ModuleDict, Encoded, Batch, Batch, Context], Score]
    """(heads, encoded, clean batch, posed batch, context) -> Score."""
    corruptions: tuple[Corruption, ...] = ()
    image_choice: ImageChoice | None = None
    needs_labels: bool = False
    """Whether it asks about the detector's labels, which not all region features come with."""


def pose(clean: Batch, tasks: Sequence[Task], context: Context) -> Batch:
    """`clean` with every corruption of the tasks applied once, in order; `clean` itself stays as it was."""
    corruptions = {corruption.name: corruption for task in tasks for corruption in task.corruptions}
    posed = clean
    for corruption in sorted(corruptions.values(), key=lambda one: one.order):
        posed = corruption.apply(posed, context)
    return posed


def image_choice(tasks: Sequence[Task]) -> ImageChoice | None:
    """The one change of pairs among the tasks, if there is any."""
    return next((task.image_choice for task in tasks if task.image_choice is not None), None)


def num_strays(tasks: Sequence[Task]) -> int:
    """How many stray regions a pair must bring for these tasks."""
    return max((corruption.num_strays for task in tasks for corruption in task.corruptions), default=0)
