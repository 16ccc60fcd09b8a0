"""What a pre-training task is: its name, what it does to the input, the heads and states it reads, and its score.

A new task is one file that ends in one `Task(...)`, and its name in a stage of curriculum.py. examples/add_a_task.py
shows one.

B pairs of a batch, T text tokens, R regions, F feature width; a data set has P pairs and N images.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from msp_ds.config import TaskOptions
from msp_ds.records import Batch, Encoded, MeanMetric, VocabularyTables
from msp_ds.stateless_random import uniform


@dataclass(frozen=True, kw_only=True)
class Context:
    """Inputs of corruptions and scores beside the batch."""

    seed: int
    epoch: int
    options: TaskOptions
    tables: VocabularyTables
    feature_mean: Tensor
    """float32 [F]: the mean region feature of the training images, the baseline of MRFR and IFRS."""
    padded_counts: Mapping[str, int] = field(default_factory=dict)
    """Lengths of the padded lists of target positions, as the host counts them (tasks/targets.py); empty on a CPU."""

    def to(self, device: torch.device | str) -> Self:
        """Return the context with its tensors on `device`."""
        return dataclasses.replace(self, tables=self.tables.to(device), feature_mean=self.feature_mean.to(device))

    def draw(self, keys: Tensor, purpose: str, n: int) -> Tensor:
        """float32 [len(keys), n] in [0, 1): this epoch's random numbers for `purpose`, a function of each key alone."""
        return uniform(seed=self.seed, epoch=self.epoch, keys=keys, purpose=purpose, n=n)


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """A change to the input. Tasks share it: MOC and MRFR have the same masked regions as their targets."""

    name: str
    order: int
    """Corruptions are applied in ascending order: regions are shuffled before they are masked."""
    apply: Callable[[Batch, Context], Batch]
    num_random_regions: int = 0
    """Random regions per pair that it needs in the batch."""


class PairSource(Protocol):
    """What a pair sampler reads of a data set; msp_ds.data.loading.reader.Reader is one."""

    keys: Tensor
    """int64 [P]."""
    images: Tensor
    """int64 [P]: the row of each pair's own image."""
    hard_negatives: Tensor | None
    """int32 [N, K], -1 beyond an image's last."""
    num_images: int
    second_images: Tensor | None
    """int64 [P]: the second image of a statement about two."""
    local_images: Tensor | None
    """int64 [n], ascending: the images that can be sampled, None for all."""

    def some_pair_of(self, images: Tensor, chances: Tensor) -> Tensor:
        """int64 [B]: a pair of each of int64 [B] `images`, chosen by float32 [B] `chances` in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class SampledPairs:
    """The rows of a batch of B pairs: n rows a pair where a task compares several, as n blocks of B rows."""

    pairs: Tensor
    """int64 [n B]: the pairs whose texts are read."""
    images: Tensor
    """int64 [n B]: the rows of the images that go with them."""
    matched: Tensor
    """bool [n B]: the image is the text's own."""
    metrics: Mapping[str, MeanMetric] = field(default_factory=dict)
    """Metrics of the sampling."""


@dataclass(frozen=True, kw_only=True)
class PairSampler:
    """A choice of texts and images, made before either is read."""

    choose: Callable[[Tensor, PairSource, Context], SampledPairs]
    """(pairs int64 [B], data set, context) -> the rows to read."""
    rows: int = 1
    """Rows of the batch for each pair: n."""
    uses_hard_negatives: bool = True


def own_images(pairs: Tensor, table: PairSource, context: Context) -> SampledPairs:
    """Pair every text with its own image."""
    return SampledPairs(pairs=pairs, images=table.images[pairs], matched=pairs.new_ones(len(pairs), dtype=torch.bool))


OWN_IMAGES = PairSampler(choose=own_images, uses_hard_negatives=False)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The loss and the metrics of one task on one batch."""

    loss: Tensor
    """float32 scalar, zero without targets."""
    metrics: dict[str, MeanMetric] = field(default_factory=dict)
    """Metrics by names such as `accuracy/mlm`; the caller adds the loss."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A pre-training task or a benchmark."""

    name: str
    heads: tuple[str, ...]
    """Names in model.heads.ALL_HEADS."""
    score: Callable[[nn.ModuleDict, Encoded, Batch, Batch, Context], TaskResult]
    """(heads, encoded, clean batch, corrupted batch, context) -> TaskResult."""
    text_targets: Callable[[Batch, Context], Tensor] | None = None
    """(corrupted batch, context) -> bool [B, T], the text states that `score` reads; None where it reads none."""
    region_targets: Callable[[Batch, Context], Tensor] | None = None
    """The same for regions, bool [B, R]. The state of the pair can always be read."""
    corruptions: tuple[Corruption, ...] = ()
    pair_sampler: PairSampler | None = None
    needs_labels: bool = False
    """Whether it needs the detector's labels, which not all region features come with."""
    answer_logits: Callable[[nn.ModuleDict, Encoded], Tensor] | None = None
    """(heads, encoded) -> float32 [B, A] over the answers to the set's questions, where the task answers questions."""
    needs_questions: bool = False
    """Whether it needs the questions of a benchmark's set."""


def corrupt(clean: Batch, tasks: Sequence[Task], context: Context) -> Batch:
    """Apply every corruption of the tasks once, in order; `clean` itself does not change."""
    corruptions = {corruption.name: corruption for task in tasks for corruption in task.corruptions}
    corrupted = clean
    for corruption in sorted(corruptions.values(), key=lambda one: one.order):
        corrupted = corruption.apply(corrupted, context)
    return corrupted


def pair_sampler(tasks: Sequence[Task]) -> PairSampler:
    """Return the one pair sampler among the tasks; without any, each text comes with its own image."""
    return next((task.pair_sampler for task in tasks if task.pair_sampler is not None), OWN_IMAGES)


def num_random_regions(tasks: Sequence[Task]) -> int:
    """Return how many random regions a pair must bring for these tasks."""
    return max((corruption.num_random_regions for task in tasks for corruption in task.corruptions), default=0)
