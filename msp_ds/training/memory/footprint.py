"""What training a model takes: multiplications and memory a pair, from the shapes alone.

T text tokens, R regions, S region slots (R and a visual [CLS]), H hidden size, I intermediate size, F feature width,
V vocabulary, C object and A attribute classes. A test compares the memory with what torch keeps for the backward pass,
and the multiplications with a count that was made independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from msp_ds.config import ModelConfig, RunConfig, TaskOptions
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.tasks.corruptions import SHUFFLE_REGIONS
from msp_ds.tasks.task import Task
from msp_ds.training.batch_loader import StepBatch

_FULL, _HALF, _BIT = 4, 2, 1
"""Bytes of a number in fp32 and in half precision, and of a flag in a dropout's mask."""
SLACK = 0.10
"""Of the activations, what a GPU's allocator loses between them: assumed."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one pair asks of a model."""

    model: ModelConfig
    tasks: tuple[Task, ...]
    options: TaskOptions
    num_tokens: int
    """T: slots of the text, padding included."""
    num_regions: int = 36
    """R."""

    @property
    def slots(self) -> int:
        """S."""
        return self.num_regions + int(self.model.visual_cls)

    @property
    def hidden_words(self) -> float:
        """Words that are asked about, on average; [CLS] and [SEP] never are."""
        return self.options.token_probability * max(self.num_tokens - 2, 0)

    def regions_asked(self, task: Task) -> float:
        """Regions that a task asks about, on average: the masked ones, or those of shuffled triplets."""
        options = self.options
        if SHUFFLE_REGIONS not in task.corruptions:
            return options.region_probability * self.num_regions
        chance = options.ifrs_probability * (1 - options.region_probability) ** 3  # of a triplet without masked regions
        if options.ifrs_choice == "stride3":
            return 3 * chance * (self.num_regions // 3)
        return 3 * chance * (self.num_regions - 2) / (1 + 2 * chance)  # a triplet keeps two starts from another

    @property
    def rows_read(self) -> tuple[float, float]:
        """States of the last layer that heads read, of text and of regions, on average; it computes no others."""
        tokens = self.hidden_words if any(task.text_targets for task in self.tasks) else 0.0
        regions = {task.corruptions: self.regions_asked(task) for task in self.tasks if task.region_targets}
        return 1 + tokens, int(self.model.visual_cls) + sum(regions.values())

    def readers(self, head: str) -> Sequence[Task]:
        """The tasks that read a head."""
        return [task for task in self.tasks if head in task.heads]


def count_weights(load: Workload) -> int:
    """Parameters of the backbone and of the tasks' heads."""
    with torch.device("meta"):  # sizes only
        backbone = Backbone(load.model)
        heads = build_heads((head for task in load.tasks for head in task.heads), load.model, backbone)
    together = {id(parameter): parameter.numel() for part in (backbone, heads) for parameter in part.parameters()}
    return sum(together.values())


def training_flops(load: Workload) -> float:
    """Floating-point operations of a pair's multiplications, forward and backward; a product and a sum are two.

    Back takes twice as many as forth, but the region features get no gradient.
    """
    model = load.model
    features = 2.0 * load.num_regions * model.feature_width * model.hidden_size
    forth = features + _layer_flops(load) + _head_flops(load)
    return 3 * forth - features


def step_flops(config: RunConfig, step_batch: StepBatch) -> float:
    """Those of what one rank trains on in a step, as it is padded."""
    total = 0.0
    for batch in step_batch.micro_batches:
        rows, num_tokens = batch.token_ids.shape
        load = Workload(
            model=config.model,
            tasks=step_batch.part.tasks,
            options=config.tasks,
            num_tokens=num_tokens,
            num_regions=batch.features.shape[1],
        )
        total += rows * training_flops(load)
    return total


def _layer_flops(load: Workload) -> float:
    model, text, regions = load.model, load.num_tokens, load.slots
    text_read, regions_read = load.rows_read
    lower = model.num_layers - 1
    if model.encoder == "single-stream":
        both = text + regions
        return lower * _self_layer_flops(model, both, both) + _self_layer_flops(model, both, text_read + regions_read)
    text_layer, region_layer = _self_layer_flops(model, text, text), _self_layer_flops(model, regions, regions)
    across = _attention_flops(model, text, regions, text) + _attention_flops(model, regions, text, regions)
    last = across + _self_layer_flops(model, text, text_read) + _self_layer_flops(model, regions, regions_read)
    below = model.language_layers * text_layer + model.region_layers * region_layer
    return lower * (across + text_layer + region_layer) + last + below


def _attention_flops(model: ModelConfig, rows: float, memory: float, read: float) -> float:
    """`rows` states that look at `memory` states, of which `read` go on: projections, scores and their sums."""
    width = model.hidden_size
    return 2 * width * width * (rows + 2 * memory + read) + 4 * width * rows * memory


def _self_layer_flops(model: ModelConfig, rows: float, read: float) -> float:
    return _attention_flops(model, rows, rows, read) + 4 * read * model.hidden_size * model.intermediate_size


def _head_flops(load: Workload) -> float:
    model, width = load.model, load.model.hidden_size
    flops = 4.0 * width * width  # the poolers
    flops += len(load.readers("token")) * load.hidden_words * 2 * width * (width + model.vocab_size)
    for task in load.readers("region"):
        flops += load.regions_asked(task) * 2 * width * (width + _answers(load, task))
    return flops + len(load.readers("topic")) * 2 * width * model.vocab_size


def _answers(load: Workload, task: Task) -> int:
    """What a task asks of a region: its labels, or its feature."""
    return load.model.num_objects + load.model.num_attributes if task.needs_labels else load.model.feature_width


def saved_bytes(load: Workload, *, half: bool) -> float:
    """Bytes that a pair's forward pass keeps for the backward pass, in training, weights left out.

    half: whether the multiplications are in half precision under autocast, with the states between them in fp32. The
    attention shares are counted, which a GPU's fused attention may not keep: there it is at most this.
    """
    kept = _Kept(load.model, half=half)
    model, text, regions = load.model, load.num_tokens, load.slots
    text_read, regions_read = load.rows_read
    lower, total = model.num_layers - 1, kept.embeddings(load) + kept.heads(load)
    if model.encoder == "single-stream":
        both = text + regions
        return total + lower * kept.self_layer(both, both) + kept.self_layer(both, text_read + regions_read)
    text_layer, region_layer = kept.self_layer(text, text), kept.self_layer(regions, regions)
    across = kept.attention(text, regions, text) + kept.attention(regions, text, regions)
    last = across + kept.self_layer(text, text_read) + kept.self_layer(regions, regions_read)
    below = model.language_layers * text_layer + model.region_layers * region_layer
    return total + lower * (across + text_layer + region_layer) + last + below


def pair_bytes(load: Workload, *, half: bool) -> float:
    """Bytes that a pair takes of a GPU, about, with the allocator's slack and the gradients that flow."""
    model = load.model
    # While the backward pass runs, the gradients of the widest states or of the topics' logits are there beside them.
    widest = max(2 * (load.num_tokens + load.slots) * model.intermediate_size, 2 * model.vocab_size) * _FULL
    return (1 + SLACK) * (saved_bytes(load, half=half) + widest)


class _Kept:
    """Bytes that the parts of a model keep."""

    def __init__(self, model: ModelConfig, *, half: bool) -> None:
        self._model = model
        self._drops = model.dropout > 0
        self._num_shares = 2 if self._drops else 1  # of attention, before and after dropout
        self._operand = _HALF if half else _FULL
        self._mask = _BIT if self._drops else 0
        # The result of a LayerNorm, in fp32, is what all multiplications after it read; in half precision each of them
        # keeps a copy of its own.
        self._result, self._copy = (0, _HALF) if half else (_FULL, 0)

    def embeddings(self, load: Workload) -> float:
        """The inputs of three LayerNorms, two dropouts, two results, and the features as they are multiplied."""
        text = load.num_tokens * (_FULL + self._mask + self._result)
        regions = load.slots * (2 * _FULL + self._mask + self._result)
        features = load.num_regions * self._model.feature_width * self._operand
        return (text + regions) * self._model.hidden_size + features

    def attention(self, rows: float, memory: float, read: float) -> float:
        """Query, key, value, the shares, what was seen, the dropout, and the LayerNorm's input and result."""
        inputs = (rows + 2 * memory) * (self._copy + self._operand)
        own = read * (self._operand + self._mask + _FULL + self._result)
        shares = rows * memory * (self._num_shares * self._operand + self._mask)
        return (inputs + own) * self._model.hidden_size + self._model.num_heads * shares

    def feed_forward(self, rows: float) -> float:
        """The wide states before GELU, the dropout, and the LayerNorm's input and result."""
        own = self._copy + self._mask + _FULL + self._result
        return rows * (self._operand * self._model.intermediate_size + own * self._model.hidden_size)

    def self_layer(self, rows: float, read: float) -> float:
        """BERT's layer, of whose states `read` go on after the attention."""
        return self.attention(rows, rows, read) + self.feed_forward(read)

    def heads(self, load: Workload) -> float:
        """Of the asked rows: the transform, the answers, and what the losses compare them with."""
        model, width = self._model, self._model.hidden_size
        transform = width * (3 * self._operand + _FULL)
        total = len(load.readers("token")) * load.hidden_words * (transform + model.vocab_size * _FULL)
        for task in load.readers("region"):
            gate = 2 * width * self._operand if model.region_gate == "pair" else 0
            # A label's loss keeps the logarithms of its chances, a feature's the answer and the right one.
            compared = _answers(load, task) * _FULL * (1 if task.needs_labels else 2)
            total += load.regions_asked(task) * (transform + gate + compared)
        before_norm = 0 if model.topic_head == "plain" else self._operand + _FULL
        return total + len(load.readers("topic")) * model.vocab_size * (before_norm + 2 * _FULL)
