"""The model's losses and gradients are those of the plain path, which computes every state."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from lessons import a_batch, a_learner
from torch import Tensor

from msp_ds.curriculum import curriculum
from msp_ds.model.positions import TargetStates
from msp_ds.records import Batch, Encoded
from msp_ds.tasks.targets import count_targets
from msp_ds.training.pretraining_model import NOT_COUNTED, PretrainingModel

STAGES = ("t", "p", "s", "t+p+s")


def computing_every_state(model: PretrainingModel) -> PretrainingModel:
    """The plain path: the last layer computes every state, whatever the targets."""

    class Plain(type(model.backbone)):  # type: ignore[misc]
        def forward(self, batch: Batch, targets: TargetStates | None = None) -> Encoded:
            return super().forward(batch)  # type: ignore[no-any-return]

    model.backbone.__class__ = Plain
    return model


def counted(model: PretrainingModel, batch: Batch, stage: str) -> dict[str, int]:
    """The padded counts of target positions, as a GPU gets them."""
    return count_targets(batch, curriculum(stage)[0].tasks, model.context)


def losses_and_gradients(
    model: PretrainingModel, batch: Batch, stage: str, padded_counts: Mapping[str, int] = NOT_COUNTED
) -> tuple[dict[str, float], dict[str, Tensor]]:
    losses = model(batch, curriculum(stage)[0].tasks, 0, padded_counts)
    losses.total.backward()
    gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return {name: metric.mean() for name, metric in losses.metrics.items()}, gradients


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padded", [False, True], ids=["as many rows as needed", "padded"])
@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_gradients_are_those_of_the_plain_path(stage: str, padded: bool) -> None:
    batch, model = a_batch(1), a_learner(stage)
    padded_counts = counted(model, batch, stage) if padded else NOT_COUNTED
    losses, gradients = losses_and_gradients(model, batch, stage, padded_counts)
    plain_losses, plain_gradients = losses_and_gradients(computing_every_state(a_learner(stage)), batch, stage)
    assert losses == pytest.approx(plain_losses, rel=1e-12, nan_ok=True)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        if not name.endswith("key.bias"):  # whose gradient is rounding: softmax does not feel it
            assert (gradients[name] - gradient).norm() <= 1e-9 * gradient.norm(), name


def test_the_plain_path_computes_more() -> None:
    batch, seen = a_batch(1), []
    for model in (a_learner("t"), computing_every_state(a_learner("t"))):
        block = model.backbone.layers[-1].text_feed_forward
        block.register_forward_hook(lambda _, arguments, result: seen.append(arguments[0].shape[:-1].numel()))
        with torch.no_grad():
            model(batch, curriculum("t")[0].tasks, 0)
    assert seen[0] < seen[1] == batch.token_ids.numel()
