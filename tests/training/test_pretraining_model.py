"""A model's loss is the weighted sum of its tasks' losses, and every head has a gradient, used or not."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from lessons import a_batch, a_learner

from msp_ds.curriculum import curriculum
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.pretraining_model import PretrainingModel

TASKS = curriculum("t")[0].tasks


def with_weights(model: PretrainingModel, weights: dict[str, float]) -> PretrainingModel:
    options = dataclasses.replace(model.context.options, weights=weights)
    model.context = dataclasses.replace(model.context, options=options)
    return model


@pytest.mark.usefixtures("float64")
def test_the_total_is_the_sum_of_the_losses_each_with_its_weight() -> None:
    model = with_weights(a_learner(), {"mlm": 2.0, "moc": 0.0, "ifrs": 0.5})
    losses = model(a_batch(1), TASKS, 0)
    each = {name: metric.mean() for name, metric in losses.metrics.items()}
    expected = 2.0 * each["loss/mlm"] + each["loss/mrfr"] + 0.5 * each["loss/ifrs"]
    assert min(each["loss/mlm"], each["loss/mrfr"], each["loss/ifrs"]) > 0
    assert losses.total.item() == pytest.approx(expected, rel=1e-12)
    assert each["loss/total"] == pytest.approx(expected, rel=1e-12)


def test_heads_of_the_tasks_alone_are_built() -> None:
    names = {stage: list(a_learner(stage).heads) for stage in ("t", "p", "s")}
    assert names == {
        "t": ["region", "token"],
        "p": ["region", "token", "topic"],
        "s": ["match", "region", "token", "topic"],
    }


def test_a_head_that_no_task_uses_has_a_gradient_of_zeros() -> None:
    model = a_learner("t+p+s")
    model(a_batch(1), TASKS, 0).total.backward()  # topic and match are left out
    for name in ("topic", "match"):
        for parameter in model.heads[name].parameters():
            assert parameter.grad is not None
            assert not parameter.grad.any()


def test_a_decoder_that_no_task_reads_has_a_gradient_of_zeros() -> None:
    model = a_learner("t")
    model(a_batch(1), [task for task in TASKS if task.name != "moc"], 0).total.backward()
    region = model.heads["region"]
    gradients = [weight.grad for weight in region.object_decoder.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    assert region.feature_decoder.weight.grad.any()


def test_weights_that_are_used_get_no_gradient_of_zeros_too() -> None:
    model = copy.deepcopy(a_learner("t"))  # a copy notes its own calls
    weight = model.heads["region"].object_decoder.weight
    met: set[Any] = set()
    waiting: list[Any] = [model(a_batch(1), TASKS, 0).total.grad_fn]
    edges = 0
    while waiting:
        for node, _ in waiting.pop().next_functions:
            edges += getattr(node, "variable", None) is weight
            if node is not None and node not in met:
                met.add(node)
                waiting.append(node)
    assert edges == 1  # one product reads it


def test_unused_heads_do_not_change_the_gradients_of_the_others() -> None:
    alone, mixed = a_learner("t"), a_learner("t+p+s", seed=1)
    mixed.backbone.load_state_dict(alone.backbone.state_dict())
    for name in alone.heads:
        mixed.heads[name].load_state_dict(alone.heads[name].state_dict())
    for model in (alone, mixed):
        model(a_batch(1), TASKS, 0).total.backward()
    for one, other in zip(alone.backbone.parameters(), mixed.backbone.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=0, rtol=0)


def test_the_epoch_decides_the_corruption() -> None:
    model = a_learner()
    first, again, second = (model(a_batch(1), TASKS, epoch).total.item() for epoch in (0, 0, 1))
    assert first == again
    assert first != second


def test_one_rank_needs_no_others(runtime: Runtime) -> None:
    assert (runtime.rank, runtime.world_size, runtime.is_first) == (0, 1, True)
    assert runtime.describe().startswith("1 rank on ")
    assert runtime.sum(torch.tensor([3.0])).tolist() == [3.0]
    assert runtime.all_reduce_max(torch.tensor([3.0])).tolist() == [3.0]
    assert runtime.broadcast("runs/tps") == "runs/tps"
    runtime.gather("")
