"""Accuracies and relative errors are worked by hand; metrics add up over batches and are divided once."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tiny import VOCABULARY_TABLES, WIDTH, a_batch, context, encoded
from torch import Tensor, nn

from msp_ds.model.heads import RegionHead
from msp_ds.model.positions import TargetPositions
from msp_ds.records import IGNORE, Batch, Encoded, MeanMetric
from msp_ds.tasks import TASKS
from msp_ds.tasks.scoring import feature_errors, gated_regions, mean_or_zero, relative_error


class Answers(RegionHead):
    """A region head that answers what is written into the region states: the first numbers of each."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, regions: Tensor, pair: Tensor) -> Tensor:
        return regions

    def objects(self, gated: Tensor) -> Tensor:
        return nn.functional.one_hot(gated[:, 0].long(), 5).float()

    def attributes(self, gated: Tensor) -> Tensor:
        return nn.functional.one_hot(gated[:, 1].long(), 3).float()

    def features(self, gated: Tensor) -> Tensor:
        return gated


def with_marks(batch: Batch, **corruption: Tensor) -> Batch:
    return dataclasses.replace(batch, corruption=dataclasses.replace(batch.corruption, **corruption))


def answered(answers: Tensor) -> Encoded:
    return Encoded(text=answers, regions=answers, pair=torch.zeros(len(answers), 1))


def test_mlm_accuracy_counts_the_masked_tokens_alone() -> None:
    clean = a_batch((6,), (3,), token_ids=torch.tensor([[2, 5, 6, 7, 8, 3]]))
    corrupted = with_marks(clean, masked_tokens=torch.tensor([[0, 1, 1, 1, 0, 0]]).bool())
    result = torch.nn.functional.one_hot(torch.tensor([[0, 5, 9, 7, 8, 3]]), 20).float()
    score = TASKS["mlm"].score(nn.ModuleDict({"token": nn.Identity()}), answered(result), clean, corrupted, context())
    assert score.metrics["accuracy/mlm"].count.item() == 3
    assert score.metrics["accuracy/mlm"].mean() == pytest.approx(2 / 3)  # 5 and 7, not 9 for 6


def test_moc_accuracy_counts_masked_regions_that_have_a_label() -> None:
    clean = a_batch(
        (4,), (4,), object_ids=torch.tensor([[2, 1, IGNORE, 0]]), attribute_ids=torch.tensor([[IGNORE, 1, IGNORE, 2]])
    )
    corrupted = with_marks(clean, masked_regions=torch.tensor([[1, 1, 1, 0]]).bool())
    result = torch.tensor([[[2.0, 0.0], [3.0, 1.0], [4.0, 2.0], [0.0, 2.0]]])
    score = TASKS["moc"].score(nn.ModuleDict({"region": Answers()}), answered(result), clean, corrupted, context())
    objects, attributes = score.metrics["accuracy/moc_object"], score.metrics["accuracy/moc_attribute"]
    assert (objects.total.item(), objects.count.item()) == (1, 2)  # 2 is right, 3 for 1 is wrong, no label, no target
    assert (attributes.total.item(), attributes.count.item()) == (1, 1)


class NoAttributes(Answers):
    """The head of a detector that has no attribute labels."""

    def attributes(self, gated: Tensor) -> Tensor:
        return gated[:, :0]


def test_moc_without_attributes_has_the_loss_and_accuracy_of_objects_alone() -> None:
    nothing = torch.full((1, 4), IGNORE)
    clean = a_batch((4,), (4,), object_ids=torch.tensor([[2, 1, IGNORE, 0]]), attribute_ids=nothing)
    corrupted = with_marks(clean, masked_regions=torch.tensor([[1, 1, 1, 0]]).bool())
    states = answered(torch.tensor([[[2.0, 0.0], [3.0, 1.0], [4.0, 2.0], [0.0, 2.0]]]))
    with_head, without_head = (
        TASKS["moc"].score(nn.ModuleDict({"region": head}), states, clean, corrupted, context())
        for head in (Answers(), NoAttributes())
    )
    assert without_head.loss.item() == with_head.loss.item() > 0
    assert list(without_head.metrics) == ["accuracy/moc_object"]


def test_itm_accuracy_counts_every_pair() -> None:
    clean = with_marks(a_batch(), matched=torch.tensor([True, False, False]))
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    states = Encoded(text=logits, regions=logits, pair=logits)
    score = TASKS["itm_hs"].score(nn.ModuleDict({"match": nn.Identity()}), states, clean, clean, context())
    assert score.metrics["accuracy/itm_hs"].mean() == pytest.approx(2 / 3)


def test_a_relative_error_is_a_fraction_of_the_baselines_error() -> None:
    target, predicted = torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[1.0, 2.0], [2.0, 3.0]])
    mean = torch.tensor([1.0, 1.0])
    errors = feature_errors(predicted, target, "mse")
    assert errors.tolist() == [(1 + 4) / 2, (0 + 1) / 2]
    metric = relative_error(errors, target, mean, "mse", torch.ones(2).bool())
    assert (metric.total.item(), metric.count.item()) == (2.5 + 0.5, 1 + 5)
    # SmoothL1: half the square up to 1, beyond it the distance less a half.
    errors = feature_errors(predicted, target, "smooth_l1")
    assert errors.tolist() == [(0.5 + 1.5) / 2, 0.5 / 2]
    metric = relative_error(errors, target, mean, "smooth_l1", torch.ones(2).bool())
    assert (metric.total.item(), metric.count.item()) == (1 + 0.25, 0.5 + (0.5 + 2.5) / 2)


def test_ifrs_accuracy_is_how_often_the_nearest_of_the_triplet_is_the_right_one() -> None:
    clean = a_batch()
    features = torch.zeros_like(clean.features)
    features[:, :, 0] = torch.arange(6)  # region i has feature (i, 0, ...)
    clean = dataclasses.replace(clean, features=features)
    # Triplets 0-2 and 3-5 in the first image, 1-3 in the second, none in the third.
    shuffled = torch.tensor([[True] * 6, [False, True, True, True, False, False], [False] * 6])
    answers = features.float()
    answers[0, :, 0] = torch.tensor([0.4, 1.6, -5.0, 3.0, 9.0, 4.0])  # nearest: 0, 2, 0, 3, 5, 4
    answers[1, :, 0] = torch.tensor([7.0, 0.0, 2.2, 9.0, 7.0, 7.0])  # nearest: -, 1, 2, 3, -, -
    corrupted = with_marks(clean, shuffled_regions=shuffled)
    score = TASKS["ifrs"].score(nn.ModuleDict({"region": Answers()}), answered(answers), clean, corrupted, context())
    metric = score.metrics["accuracy/ifrs"]
    assert (metric.total.item(), metric.count.item()) == (2 + 3, 9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "mark"), [("mrfr", "masked_regions"), ("ifrs", "shuffled_regions")])
def test_answering_the_mean_feature_is_an_error_of_one_and_the_truth_of_none(name: str, mark: str) -> None:
    clean, ctx = a_batch(), context()
    corrupted = with_marks(clean, **{mark: clean.region_mask})
    heads = nn.ModuleDict({"region": Answers()})
    for answer, error in ((ctx.feature_mean.expand(3, 6, WIDTH), 1.0), (clean.features.double(), 0.0)):
        score = TASKS[name].score(heads, answered(answer), clean, corrupted, ctx)
        assert score.metrics[f"error/{name}"].mean() == pytest.approx(error, abs=1e-12)


def test_copying_what_lies_there_after_the_shuffle_is_an_error_of_one_versus_copying() -> None:
    clean = a_batch()
    turned = clean.features[:, [1, 2, 0, 3, 4, 5]]
    shuffled = (torch.arange(6) < 3).expand(3, -1)
    corrupted = with_marks(dataclasses.replace(clean, features=turned), shuffled_regions=shuffled)
    score = TASKS["ifrs"].score(
        nn.ModuleDict({"region": Answers()}), answered(turned.float()), clean, corrupted, context()
    )
    assert score.metrics["error/ifrs_vs_copy"].mean() == pytest.approx(1.0)
    assert score.metrics["error/ifrs_vs_copy"].total > 0


def test_without_targets_nothing_is_counted() -> None:
    clean = a_batch()
    for name in ("mrfr", "ifrs", "moc"):
        states = answered(torch.zeros(3, 6, WIDTH))
        score = TASKS[name].score(nn.ModuleDict({"region": Answers()}), states, clean, clean, context())
        assert all(metric.count.item() == 0 and math.isnan(metric.mean()) for metric in score.metrics.values())


def test_regions_are_gated_by_the_pair_they_belong_to() -> None:
    class Both(Answers):
        def forward(self, regions: Tensor, pair: Tensor) -> Tensor:
            return torch.stack((regions[:, 0], pair[:, 0]), dim=1)

    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]).bool()
    states = Encoded(
        text=torch.empty(0), regions=torch.arange(9.0).view(3, 3, 1), pair=torch.tensor([[10.0], [20.0], [30.0]])
    )
    _, gated = gated_regions(nn.ModuleDict({"region": Both()}), states, TargetPositions(mask=mask).flat())
    assert gated.tolist() == [[0, 10], [2, 10], [7, 30]]


def test_another_kind_of_region_head_is_refused() -> None:
    states = encoded(a_batch())
    with pytest.raises(TypeError, match="'region' is a Identity"):
        gated_regions(
            nn.ModuleDict({"region": nn.Identity()}), states, TargetPositions(mask=torch.ones(3, 6).bool()).flat()
        )


def test_a_metric_is_the_same_in_one_piece_and_in_many() -> None:
    values = torch.arange(10.0)
    whole = MeanMetric.of(values)
    parts = MeanMetric.of(values[:3]) + MeanMetric.of(values[3:3]) + MeanMetric.of(values[3:].view(7, 1))
    assert (parts.total.item(), parts.count.item()) == (whole.total.item(), whole.count.item()) == (45, 10)
    assert whole.mean() == 4.5


def test_the_mean_of_a_sum_is_no_mean_of_means() -> None:
    assert (MeanMetric.of(torch.tensor([1.0, 1.0, 1.0])) + MeanMetric.of(torch.tensor([5.0]))).mean() == 2.0


def test_a_weighted_metric_divides_by_the_weights() -> None:
    metric = MeanMetric.of(torch.tensor([2.0, 10.0]), torch.tensor([3.0, 1.0]))
    assert (metric.total.item(), metric.count.item(), metric.mean()) == (16, 4, 4.0)


def test_metrics_count_in_double_precision_and_carry_no_gradient() -> None:
    values = torch.full((3,), 2.0**24, requires_grad=True)
    metric = MeanMetric.of(values) + MeanMetric.of(torch.tensor([True]))
    assert metric.total.item() == 3 * 2**24 + 1  # beyond what float32 can count
    assert not metric.total.requires_grad


def test_the_mean_of_nothing_is_zero_for_a_loss_and_nan_for_a_metric() -> None:
    assert mean_or_zero(torch.empty(0), torch.empty(0).bool()).item() == 0.0
    assert math.isnan(MeanMetric.of(torch.empty(0)).mean())


def test_the_tables_moves_as_a_whole() -> None:
    moved = VOCABULARY_TABLES.to("meta")
    assert {
        tensor.device.type for tensor in (moved.object_pieces, moved.attribute_pieces, moved.is_function_piece)
    } == {"meta"}
    assert (moved.cls_id, moved.vocab_size) == (VOCABULARY_TABLES.cls_id, VOCABULARY_TABLES.vocab_size)
