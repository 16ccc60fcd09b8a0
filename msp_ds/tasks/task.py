"""What a pre-training task is: a value with a name, what it does to the input, the heads it reads and its score.

An eighth task is one file ending in one `Task(...)` and its name in a stage of curriculum.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from msp_ds.config import TaskOptions
from msp_ds.records import Batch, Encoded, MeanMetric, VocabularyTables
from msp_ds.stateless_random import uniform


@dataclass(frozen=True, kw_only=True)
class Context:
    """What corruptions and scores may know beside the batch."""

    seed: int
    epoch: int
    options: TaskOptions
    tables: VocabularyTables
    feature_mean: Tensor
    """float32 [F]: the mean region feature of the training images, the yardstick of MRFR and IFRS."""
    rooms: Mapping[str, int] = field(default_factory=dict)
    """How long the lists of asked places are, where the host has counted them (tasks/asking.py); empty on a CPU."""

    def to(self, device: torch.device | str) -> Context:
        """The same context with its tensors on `device`."""
        return dataclasses.replace(self, tables=self.tables.to(device), feature_mean=self.feature_mean.to(device))

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
    num_random_regions: int = 0
    """Random regions that it needs in the batch."""


class PairSource(Protocol):
    """What a choice of pairs may know of a set of P pairs and N images; msp_ds.data.loading.reader.Reader is one."""

    keys: Tensor
    """int64 [P]."""
    images: Tensor
    """int64 [P]: each pair's own image row."""
    hard_negatives: Tensor | None
    """int32 [N, K], -1 beyond an image's last."""
    num_images: int
    second_images: Tensor | None
    """int64 [P]: the second image of a statement about two."""
    images_at_hand: Tensor | None
    """int64 [n], ascending: the images that chance may choose from, None for all."""

    def some_pair_of(self, images: Tensor, chances: Tensor) -> Tensor:
        """int64 [B]: a pair of each of int64 [B] `images`, chosen by float32 [B] `chances` in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class SampledPairs:
    """The rows of a batch: n a pair, where a task compares; n blocks of B, each in the order of the pairs."""

    pairs: Tensor
    """int64 [n B]: the pairs whose texts are read."""
    images: Tensor
    """int64 [n B]: the image rows that go with them."""
    matched: Tensor
    """bool [n B]: the image is the text's own."""
    metrics: Mapping[str, MeanMetric] = field(default_factory=dict)
    """What there is to know of the choice."""


@dataclass(frozen=True, kw_only=True)
class PairSampler:
    """A change of the pairs themselves, made before anything is read: which text meets which image."""

    choose: Callable[[Tensor, PairSource, Context], SampledPairs]
    """(pairs int64 [B], table, context) -> what is read for them."""
    rows: int = 1
    """Rows of the batch for each pair: n."""
    uses_hard_negatives: bool = True
    """Whether it wants the set's hard negatives."""


def own_images(pairs: Tensor, table: PairSource, context: Context) -> SampledPairs:
    """Every text with its own image."""
    return SampledPairs(pairs=pairs, images=table.images[pairs], matched=pairs.new_ones(len(pairs), dtype=torch.bool))


OWN_IMAGES = PairSampler(choose=own_images, uses_hard_negatives=False)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one task says of one batch."""

    loss: Tensor
    """float32 scalar, zero when nothing was asked."""
    metrics: dict[str, MeanMetric] = field(default_factory=dict)
    """Metrics as `accuracy/mlm`; the loss is added by the caller."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A pre-training task."""

    name: str
    heads: tuple[str, ...]
    """Names in model.heads.ALL_HEADS."""
    score: Callable[[nn.ModuleDict, Encoded, Batch, Batch, Context], TaskResult]
    """(heads, encoded, clean batch, corrupted batch, context) -> TaskResult."""
    text_targets: Callable[[Batch, Context], Tensor] | None = None
    """(corrupted batch, context) -> bool [B, T], the text states that `score` reads; None where it reads none."""
    region_targets: Callable[[Batch, Context], Tensor] | None = None
    """The same of the regions, bool [B, R]. The pair can always be read."""
    corruptions: tuple[Corruption, ...] = ()
    pair_sampler: PairSampler | None = None
    needs_labels: bool = False
    """Whether it asks about the detector's labels, which not all region features come with."""
    answer_logits: Callable[[nn.ModuleDict, Encoded], Tensor] | None = None
    """(heads, encoded) -> float32 [B, A] over the answers of the set's questions, where the task answers any."""
    needs_questions: bool = False
    """Whether it asks the questions of a benchmark's set."""


def corrupt(clean: Batch, tasks: Sequence[Task], context: Context) -> Batch:
    """`clean` with every corruption of the tasks applied once, in order; `clean` itself stays as it was."""
    corruptions = {corruption.name: corruption for task in tasks for corruption in task.corruptions}
    corrupted = clean
    for corruption in sorted(corruptions.values(), key=lambda one: one.order):
        corrupted = corruption.apply(corrupted, context)
    return corrupted


def pair_sampler(tasks: Sequence[Task]) -> PairSampler:
    """The one change of pairs among the tasks; without any, each text comes with its own image."""
    return next((task.pair_sampler for task in tasks if task.pair_sampler is not None), OWN_IMAGES)


def num_random_regions(tasks: Sequence[Task]) -> int:
    """How many random regions a pair must bring for these tasks."""
    return max((corruption.num_random_regions for task in tasks for corruption in task.corruptions), default=0)
