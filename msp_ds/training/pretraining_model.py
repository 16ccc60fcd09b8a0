"""The module that DeepSpeed drives: a backbone, the heads of a stage, and the tasks that ask them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.records import Batch, Losses, MeanMetric
from msp_ds.tasks.targets import targets_of
from msp_ds.tasks.task import Context, Task, corrupt

NOT_COUNTED: Mapping[str, int] = MappingProxyType({})
"""The padded counts of a batch whose targets are not counted."""


class PretrainingModel(nn.Module):
    """From a clean batch to the losses of the tasks: corrupt, encode, score."""

    def __init__(self, backbone: Backbone, tasks: Sequence[Task], context: Context) -> None:
        """`tasks`: all tasks of the stage, whose heads are built fresh."""
        super().__init__()
        self.backbone = backbone
        self.heads = build_heads((head for task in tasks for head in task.heads), backbone.config, backbone)
        self.context = context
        self._layers = [layer for layer in self.heads.modules() if list(layer.parameters(recurse=False))]
        self._called: set[nn.Module] = set()
        for layer in self._layers:
            layer.register_forward_hook(self._note_call)

    def forward(
        self, clean: Batch, tasks: Sequence[Task], epoch: int, padded_counts: Mapping[str, int] = NOT_COUNTED
    ) -> Losses:
        """The weighted sum of the tasks' losses (unless the options say otherwise, all weights 1) and their metrics.

        padded_counts: what tasks.targets.count_targets says of the batch, so that a GPU need not be asked.
        """
        context = dataclasses.replace(self.context, epoch=epoch, padded_counts=padded_counts)
        return self.answer(clean, corrupt(clean, tasks, context), tasks, context)

    def answer(self, clean: Batch, corrupted: Batch, tasks: Sequence[Task], context: Context) -> Losses:
        """The losses of a batch that is corrupted already."""
        encoded = self.backbone(corrupted, targets_of(tasks, corrupted, context))
        self._called.clear()
        total = clean.boxes.new_zeros(())
        metrics: dict[str, MeanMetric] = {}
        for task in tasks:
            score = task.score(self.heads, encoded, clean, corrupted, context)
            total = total + context.options.weights.get(task.name, 1.0) * score.loss
            metrics[f"loss/{task.name}"] = MeanMetric.of(score.loss.expand(len(clean.keys)))  # a pair each
            metrics |= score.metrics
        metrics["loss/total"] = MeanMetric.of(total.expand(len(clean.keys)))
        return Losses(total=total + self._touch_what_was_not_read(encoded.pair), metrics=metrics)

    def _note_call(self, layer: nn.Module, *_: object) -> None:
        self._called.add(layer)

    def _touch_what_was_not_read(self, like: Tensor) -> Tensor:
        """A zero that depends on the heads' layers that no task called: so each weight has a gradient on every rank.

        What was called is not touched: it would cost a gradient of zeros, and adding it, for each weight.
        ZeRO-3 keeps the weights elsewhere between forward passes; there is nothing to touch then.
        """
        zero = like.new_zeros((), dtype=torch.float32)
        for layer in self._layers:
            if layer not in self._called:
                for parameter in layer.parameters(recurse=False):
                    if parameter.numel():
                        zero = zero + 0.0 * parameter.reshape(-1)[0].float()
        return zero
