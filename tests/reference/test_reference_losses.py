"""Every loss equals one that was written apart from it, number by number, over 200 random and empty batches."""

from __future__ import annotations

import copy

import pytest
import torch
from reference.comparison import (
    CHOICES,
    EMPTY_KINDS,
    NUM_BATCHES,
    Agreement,
    Example,
    agreements,
    converted,
    examples,
    question,
)
from reference.slow_losses import SLOW_LOSSES, binary_cross_entropy, cross_entropy, mean_distance
from torch import nn

from msp_ds.config import TaskOptions
from msp_ds.records import Encoded
from msp_ds.tasks import TASKS


@pytest.fixture(scope="module")
def found() -> dict[str, Agreement]:
    return agreements(examples())


@pytest.mark.parametrize("name", list(TASKS))
def test_the_loss_is_the_slow_one(found: dict[str, Agreement], name: str) -> None:
    assert found[name].batches == NUM_BATCHES
    assert found[name].double < 1e-9
    assert found[name].single < 1e-6


def test_every_task_has_a_slow_loss() -> None:
    assert set(SLOW_LOSSES) == set(TASKS)


def test_the_batches_include_some_with_and_some_without_targets(found: dict[str, Agreement]) -> None:
    for name, one in found.items():
        assert NUM_BATCHES - one.empty >= 50, name
        assert one.empty >= 30 or name == "itm_hs"  # which asks about every pair


def test_the_batches_meet_every_option_with_every_kind() -> None:
    met = {(one.kind, name, str(getattr(one.context.options, name))) for one in examples() for name in CHOICES}
    wanted = {
        (kind, name, str(value))
        for kind in ("ordinary", *EMPTY_KINDS)
        for name, values in CHOICES.items()
        for value in values
    }
    assert met == wanted


def test_options_that_are_left_out_are_no_part_of_a_loss() -> None:
    elsewhere = {"token_probability", "region_probability", "ifrs_probability"}  # drawn with the kind of the batch
    elsewhere |= {
        "itm_probability",
        "itm_negatives",
        "itm_hard_probability",
        "itm_skip_nearest",
    }  # decide the image, not the loss
    elsewhere |= {"weights"}  # of the sum: tests/training/test_pretraining_model.py
    elsewhere |= {"answer_loss"}  # of benchmarks: tests/downstream/test_benchmark_tasks.py
    elsewhere |= {"heads", "heads_of"}  # decide what a stage starts from
    assert set(TaskOptions.__dataclass_fields__) == set(CHOICES) | elsewhere


def test_a_batch_without_targets_has_zero_loss_and_zero_gradients() -> None:
    met = set()
    for example in examples():
        the_question = question(example)
        for name in ("mlm", "mrfr", "moc", "ifrs"):
            if SLOW_LOSSES[name](the_question).num_targets == 0:
                met.add((name, example.kind))
                assert_free(example, name)
    for name in ("mlm", "mrfr", "moc"):
        assert {(name, "nothing masked"), (name, "all mismatched")} <= met
    assert {("mrfr", "all filler"), ("moc", "all filler"), ("ifrs", "all filler")} <= met


def assert_free(example: Example, name: str) -> None:
    heads = copy.deepcopy(example.heads)
    states = converted(example.states, torch.float64)
    loss = TASKS[name].score(heads, states, example.clean, example.corrupted, example.context).loss
    assert loss.item() == 0.0
    loss.backward()
    gradients = [leaf.grad for leaf in (states.text, states.regions, states.pair, *heads.parameters())]
    assert any(gradient is not None for gradient in gradients)
    assert not any(gradient.any() for gradient in gradients if gradient is not None)  # a nan counts as something


def test_pairs_without_topics_are_kept_and_push_every_topic_down() -> None:
    example = next(one for one in examples() if one.kind == "no topic" and bool(one.clean.corruption.matched.all()))
    logits = example.heads["topic"](example.states.pair).flatten().tolist()
    expected = sum(binary_cross_entropy(one, False) for one in logits) / len(logits)
    assert example.fast_loss("tits").item() == pytest.approx(expected, abs=1e-9)


def test_index_1_says_matched() -> None:
    sure = nn.ModuleDict({"match": nn.Identity()})
    example = next(one for one in examples() if bool(one.clean.corruption.matched.all()))
    size = len(example.clean.keys)
    states = Encoded(text=torch.empty(0), regions=torch.empty(0), pair=torch.tensor([[-9.0, 9.0]]).expand(size, -1))
    score = TASKS["itm_hs"].score(sure, states, example.clean, example.corrupted, example.context)
    assert score.loss.item() < 1e-6
    assert score.metrics["accuracy/itm_hs"].mean() == 1.0


@pytest.mark.parametrize("name", list(TASKS))
def test_losses_are_single_precision_scalars_even_of_half_precision_states(name: str) -> None:
    example = next(iter(examples())).in_single_precision()
    states = converted(example.states, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score = TASKS[name].score(example.heads, states, example.clean, example.corrupted, example.context)
    assert score.loss.dtype == torch.float32
    assert score.loss.shape == ()
    assert score.loss.isfinite()


# The yardsticks, by hand.


def test_cross_entropy_by_hand() -> None:
    assert cross_entropy([0.0, 0.0, 0.0, 0.0], 2) == pytest.approx(1.3862943611198906)  # log 4
    assert cross_entropy([1000.0, 0.0], 0) == 0.0
    assert cross_entropy([1000.0, 0.0], 1) == 1000.0


def test_binary_cross_entropy_by_hand() -> None:
    assert binary_cross_entropy(0.0, True) == pytest.approx(0.6931471805599453)
    assert binary_cross_entropy(-50.0, True) == pytest.approx(50.0)
    assert binary_cross_entropy(-50.0, False) == pytest.approx(1.9287498479639178e-22)


@pytest.mark.parametrize(("kind", "expected"), [("mse", (0.25 + 9.0) / 2), ("smooth_l1", (0.125 + 2.5) / 2)])
def test_distances_by_hand(kind: str, expected: float) -> None:
    assert mean_distance([0.5, 1.0], [1.0, 4.0], kind) == expected
