"""Predicts the operations and the memory of training on one pair from the shapes alone.

T text tokens, R regions, S region slots (R and a visual [CLS]), H hidden size, I intermediate size, F feature width,
V vocabulary, C object and A attribute classes. A test compares the memory with what torch keeps for the backward pass,
and the operations with an independent count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from msp_ds.config import ModelConfig, RunConfig, TaskOptions
from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.tasks.corruptions import SHUFFLE_REGIONS
from msp_ds.tasks.task import Task
from msp_ds.training.batch_loader import StepBatch

_FULL, _HALF, _BIT = 4, 2, 1  # bytes of a number in fp32 and in half precision, and of a flag in a dropout mask
SLACK = 0.10  # assumed overhead of a GPU's allocator, as a ratio of the activations


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, its tasks and the size of one pair."""

    model: ModelConfig
    tasks: tuple[Task, ...]
    options: TaskOptions
    num_tokens: int  # T, padding included
    num_regions: int = 36  # R

    @property
    def slots(self) -> int:
        """S."""
        return self.num_regions + int(self.model.visual_cls)

    @property
    def masked_words(self) -> float:
        """Mean number of masked words; [CLS] and [SEP] are never masked."""
        return self.options.token_probability * max(self.num_tokens - 2, 0)

    def target_regions(self, task: Task) -> float:
        """Mean number of target regions of a task: the masked ones, or those of shuffled triplets."""
        options = self.options
        if SHUFFLE_REGIONS not in task.corruptions:
            return options.region_probability * self.num_regions
        # A triplet is shuffled only where none of its regions is masked.
        probability = options.ifrs_probability * (1 - options.region_probability) ** 3
        if options.ifrs_choice == "stride3":
            return 3 * probability * (self.num_regions // 3)
        # A shuffled triplet excludes the two starts beside it.
        return 3 * probability * (self.num_regions - 2) / (1 + 2 * probability)

    @property
    def states_read(self) -> tuple[float, float]:
        """Mean number of text and of region states of the last layer that heads read; it computes no others."""
        tokens = self.masked_words if any(task.text_targets for task in self.tasks) else 0.0
        regions = {task.corruptions: self.target_regions(task) for task in self.tasks if task.region_targets}
        return 1 + tokens, int(self.model.visual_cls) + sum(regions.values())

    def readers(self, head: str) -> Sequence[Task]:
        """The tasks that use a head."""
        return [task for task in self.tasks if head in task.heads]


def count_weights(workload: Workload) -> int:
    """Number of parameters of the backbone and of the tasks' heads."""
    with torch.device("meta"):  # sizes only
        backbone = Backbone(workload.model)
        heads = build_heads((head for task in workload.tasks for head in task.heads), workload.model, backbone)
    unique = {id(parameter): parameter.numel() for module in (backbone, heads) for parameter in module.parameters()}
    return sum(unique.values())


def training_flops(workload: Workload) -> float:
    """Floating-point operations of a pair's matrix products, forward and backward; a multiply-add counts as two.

    The backward pass takes twice as many as the forward pass, but the region features need no gradient.
    """
    model = workload.model
    features = 2.0 * workload.num_regions * model.feature_width * model.hidden_size

    def attention(states: float, memory: float, read: float) -> float:
        width = model.hidden_size
        return 2 * width * width * (states + 2 * memory + read) + 4 * width * states * memory

    def feed_forward(states: float) -> float:
        return 4 * states * model.hidden_size * model.intermediate_size

    forward = features + _encoder_cost(workload, attention, feed_forward) + _head_flops(workload)
    return 3 * forward - features


def step_flops(config: RunConfig, step_batch: StepBatch) -> float:
    """Floating-point operations of one rank in a step, padding included."""
    total = 0.0
    for batch in step_batch.micro_batches:
        num_pairs, num_tokens = batch.token_ids.shape
        workload = Workload(
            model=config.model,
            tasks=step_batch.part.tasks,
            options=config.tasks,
            num_tokens=num_tokens,
            num_regions=batch.features.shape[1],
        )
        total += num_pairs * training_flops(workload)
    return total


def _encoder_cost(
    workload: Workload, attention: Callable[[float, float, float], float], feed_forward: Callable[[float], float]
) -> float:
    """The cost of all layers of the encoder, of which the last computes only the states that heads read.

    attention(states, memory, read): cost where `states` states attend to `memory` states and `read` of them are used
    afterwards. feed_forward(states): cost of the feed-forward block.
    """

    def self_layer(states: float, read: float) -> float:
        return attention(states, states, read) + feed_forward(read)

    model, text, regions = workload.model, workload.num_tokens, workload.slots
    text_read, regions_read = workload.states_read
    lower = model.num_layers - 1
    if model.encoder == "single-stream":
        both = text + regions
        return lower * self_layer(both, both) + self_layer(both, text_read + regions_read)
    text_layer, region_layer = self_layer(text, text), self_layer(regions, regions)
    across = attention(text, regions, text) + attention(regions, text, regions)
    last = across + self_layer(text, text_read) + self_layer(regions, regions_read)
    below = model.language_layers * text_layer + model.region_layers * region_layer
    return lower * (across + text_layer + region_layer) + last + below


def _head_flops(workload: Workload) -> float:
    model, width = workload.model, workload.model.hidden_size
    flops = 4.0 * width * width  # the poolers
    flops += len(workload.readers("token")) * workload.masked_words * 2 * width * (width + model.vocab_size)
    for task in workload.readers("region"):
        flops += workload.target_regions(task) * 2 * width * (width + _num_outputs(model, task))
    return flops + len(workload.readers("topic")) * 2 * width * model.vocab_size


def _num_outputs(model: ModelConfig, task: Task) -> int:
    """Outputs of the region head for a task: label logits or a feature."""
    return model.num_objects + model.num_attributes if task.needs_labels else model.feature_width


def saved_bytes(workload: Workload, *, half: bool) -> float:
    """Bytes that a pair's forward pass in training keeps for the backward pass, without weights.

    half: whether matrix products run in half precision under autocast, with fp32 states between them. The attention
    probabilities are counted; with a fused attention, which does not keep them, the result is an upper bound.
    """
    kept = _KeptBytes(workload.model, half=half)
    encoder = _encoder_cost(workload, kept.attention, kept.feed_forward)
    return kept.embeddings(workload) + kept.heads(workload) + encoder


def pair_bytes(workload: Workload, *, half: bool) -> float:
    """Approximate bytes of GPU memory for a pair, including activations' gradients and the allocator's overhead."""
    model = workload.model
    # The backward pass adds the gradients of the widest states or of the topic logits.
    widest = max(2 * (workload.num_tokens + workload.slots) * model.intermediate_size, 2 * model.vocab_size) * _FULL
    return (1 + SLACK) * (saved_bytes(workload, half=half) + widest)


class _KeptBytes:
    """Bytes that the parts of a model keep for the backward pass."""

    def __init__(self, model: ModelConfig, *, half: bool) -> None:
        self._model = model
        self._num_probabilities = 2 if model.dropout > 0 else 1  # attention probabilities before and after dropout
        self._operand = _HALF if half else _FULL
        self._mask = _BIT if model.dropout > 0 else 0
        # All matrix products after a LayerNorm share its fp32 result; in half precision each keeps its own copy.
        self._result, self._copy = (0, _HALF) if half else (_FULL, 0)

    def embeddings(self, workload: Workload) -> float:
        """Inputs of three LayerNorms, two dropout masks, two results, and the features."""
        text = workload.num_tokens * (_FULL + self._mask + self._result)
        regions = workload.slots * (2 * _FULL + self._mask + self._result)
        features = workload.num_regions * self._model.feature_width * self._operand
        return (text + regions) * self._model.hidden_size + features

    def attention(self, states: float, memory: float, read: float) -> float:
        """Query, key, value, probabilities, context, dropout mask, and the LayerNorm's input and result."""
        inputs = (states + 2 * memory) * (self._copy + self._operand)
        own = read * (self._operand + self._mask + _FULL + self._result)
        probabilities = states * memory * (self._num_probabilities * self._operand + self._mask)
        return (inputs + own) * self._model.hidden_size + self._model.num_heads * probabilities

    def feed_forward(self, states: float) -> float:
        """The wide states before GELU, the dropout mask, and the LayerNorm's input and result."""
        own = self._copy + self._mask + _FULL + self._result
        return states * (self._operand * self._model.intermediate_size + own * self._model.hidden_size)

    def heads(self, workload: Workload) -> float:
        """The transform, the outputs and what the losses keep, at the target positions."""
        model, width = self._model, self._model.hidden_size
        transform = width * (3 * self._operand + _FULL)
        total = len(workload.readers("token")) * workload.masked_words * (transform + model.vocab_size * _FULL)
        for task in workload.readers("region"):
            gate = 2 * width * self._operand if model.region_gate == "pair" else 0
            # A label loss keeps log-probabilities, a feature loss the output and its target.
            compared = _num_outputs(model, task) * _FULL * (1 if task.needs_labels else 2)
            total += workload.target_regions(task) * (transform + gate + compared)
        before_norm = 0 if model.topic_head == "plain" else self._operand + _FULL
        return total + len(workload.readers("topic")) * model.vocab_size * (before_norm + 2 * _FULL)
