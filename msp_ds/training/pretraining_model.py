"""The module that DeepSpeed drives: a backbone, the heads of a stage, and the tasks that they answer."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from msp_ds.model.encoder import Backbone
from msp_ds.model.heads import build_heads
from msp_ds.records import Batch, Losses, MeanMetric
from msp_ds.stateless_random import DROPOUT, key_of
from msp_ds.tasks.targets import targets_of
from msp_ds.tasks.task import Context, Task, corrupt

NOT_COUNTED: Mapping[str, int] = MappingProxyType({})
"""Padded counts of a batch whose target positions have not been counted."""


class PretrainingModel(nn.Module):
    """From a clean batch to the losses of the tasks: corrupt, encode, score."""

    def __init__(self, backbone: Backbone, tasks: Sequence[Task], context: Context) -> None:
        """Build fresh heads for `tasks`, all tasks of the stage."""
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
        """Return the weighted sum of the tasks' losses (all weights are 1 by default) and their metrics.

        padded_counts: the batch's tasks.targets.count_targets; with them no shape depends on values on the device, so
        that the host does not wait for a GPU.
        """
        context = dataclasses.replace(self.context, epoch=epoch, padded_counts=padded_counts)
        return self.answer(clean, corrupt(clean, tasks, context), tasks, context)

    def answer(self, clean: Batch, corrupted: Batch, tasks: Sequence[Task], context: Context) -> Losses:
        """Return the losses of a batch that is corrupted already."""
        encoded = self.backbone(corrupted, targets_of(tasks, corrupted, context))
        self._called.clear()
        total = clean.boxes.new_zeros(())
        metrics: dict[str, MeanMetric] = {}
        for task in tasks:
            score = task.score(self.heads, encoded, clean, corrupted, context)
            total = total + context.options.weights.get(task.name, 1.0) * score.loss
            # One count per pair, so that losses are averaged over pairs when batches differ in size.
            metrics[f"loss/{task.name}"] = MeanMetric.of(score.loss.expand(len(clean.keys)))
            metrics |= score.metrics
        metrics["loss/total"] = MeanMetric.of(total.expand(len(clean.keys)))
        return Losses(total=total + self._zero_of_unused_layers(encoded.pair), metrics=metrics)

    def _note_call(self, layer: nn.Module, *_: object) -> None:
        self._called.add(layer)

    def _zero_of_unused_layers(self, like: Tensor) -> Tensor:
        """Return a zero that depends on the heads' layers that no task called, so that each weight has a gradient.

        Ranks whose steps used different heads could not average their gradients otherwise. Layers that were called are
        left out: a gradient of zeros would be computed and added for each of their weights.
        """
        zero = like.new_zeros((), dtype=torch.float32)
        for layer in self._layers:
            if layer not in self._called:
                for parameter in layer.parameters(recurse=False):
                    if parameter.numel():  # ZeRO 3 keeps the weights elsewhere between forward passes
                        zero = zero + 0.0 * parameter.reshape(-1)[0].float()
        return zero


def seed_dropout(seed: int, *, part: str, step: int, rank: int) -> None:
    """Seed torch's generator for one rank's optimiser step `step` of a stage; only dropout draws from it."""
    torch.manual_seed(key_of(DROPOUT.format(seed=seed, part=part, step=step, rank=rank)))
