"""A step whose gradient is not finite changes nothing in any execution; its batch is noted for a replay."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu, OnGpu
from lessons import TASKS, a_batch, a_learner, an_engine, one_step

from msp_ds.errors import InputError
from msp_ds.records import Losses, MeanMetric
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine_state import gather_state
from msp_ds.training.guards.finite import BatchInfo, FiniteGuard, deferred_bool, read_batch_info, zeroed

INFO = BatchInfo(
    stage="token",
    part="token",
    tasks=("mlm",),
    step=6,
    epoch=1,
    rank=0,
    ranks=2,
    micro_batch=4,
    number=1,
    num_blocks=1,
    seed=3,
    keys=(2**62, -5),
    losses={},
)


def a_guard(folder: Path, runtime: Runtime, *, stop_after: int = 3, counts_norms: bool = True) -> FiniteGuard:
    return FiniteGuard(folder, stage="token", stop_after=stop_after, counts_norms=counts_norms, runtime=runtime)


def losses_of(**values: float) -> Losses:
    metrics = {f"loss/{name}": MeanMetric.of(torch.tensor([value])) for name, value in values.items()}
    return Losses(
        total=torch.tensor(math.nan), metrics={**metrics, "loss/total": MeanMetric.of(torch.tensor([math.nan]))}
    )


@pytest.mark.parametrize(
    "way",
    [{}, {"precision": "bf16"}, {"zero_stage": 1}, {"zero_stage": 2}, {"zero_stage": 3}],
    ids=["fp32", "bf16", "zero1", "zero2", "zero3"],
)
def test_a_gradient_that_is_not_finite_moves_neither_weights_nor_moments(runtime: Runtime, way: dict[str, Any]) -> None:
    engine = an_engine(a_learner(), runtime, **way)
    one_step(engine, runtime, a_batch(0))
    before = gather_state(engine, runtime)
    engine.backward(engine.engine(a_batch(1).to(runtime.device), TASKS, 0).total * math.nan)
    engine.step()
    after = gather_state(engine, runtime)
    assert before is not None
    assert after is not None
    assert not torch.as_tensor(engine.grad_norm).isfinite(), "the guard must see it"
    for name, tensor in {**before.weights, **before.moments}.items():
        assert torch.equal({**after.weights, **after.moments}[name], tensor), name
    one_step(engine, runtime, a_batch(2))
    later = gather_state(engine, runtime)
    assert later is not None
    assert all(bool(tensor.isfinite().all()) for tensor in later.weights.values())
    assert any(not torch.equal(later.weights[name], after.weights[name]) for name in after.weights)
    engine.close()


def test_what_a_batch_is_rebuilt_from_is_noted_with_its_losses(runtime: Runtime, tmp_path: Path) -> None:
    a_guard(tmp_path, runtime).note_batch(losses_of(mlm=math.inf, moc=2.0), INFO)
    info = read_batch_info(tmp_path / "not-finite" / "step-00000007-rank-0.json")
    assert math.isnan(info.losses.pop("loss/total"))
    assert info == dataclasses.replace(INFO, losses={"loss/mlm": math.inf, "loss/moc": 2.0})


def test_only_the_losses_that_are_not_finite_are_named(
    runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a_guard(tmp_path, runtime).note_batch(losses_of(mlm=math.inf, moc=2.0, mrfr=math.nan), INFO)
    assert caplog.messages[0].startswith(
        "loss/mlm and loss/mrfr are not finite in step 7 of stage token, which is skipped"
    )


def test_no_more_than_ten_batches_are_noted(runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard = a_guard(tmp_path, runtime)
    for step in range(12):
        guard.note_batch(losses_of(mlm=math.nan), dataclasses.replace(INFO, step=step))
    assert len(list((tmp_path / "not-finite").iterdir())) == 10
    assert "names 10 batches, no more are noted" in caplog.messages[-1]


def test_a_disk_that_does_not_take_the_batch_stops_nothing(
    runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    a_guard(tmp_path / "file", runtime).note_batch(losses_of(mlm=math.nan), INFO)
    assert "the batch could not be noted (" in caplog.messages[0]


@pytest.mark.parametrize(
    "text", [None, "[]", '{"step": 3}', '{"losses": {"loss/mlm": "nan"}}', '{"losses": {"a": "b"}}']
)
def test_what_is_not_a_noted_batch_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match=r"other.json is not a batch that a run noted \(.*STAGE/not-finite of a run"):
        read_batch_info(tmp_path / "other.json")


def test_steps_in_a_row_are_counted_over_reports_and_a_good_one_starts_again(runtime: Runtime, tmp_path: Path) -> None:
    guard, one = a_guard(tmp_path, runtime), torch.ones(())
    for finite in (False, False, True, False):
        guard.note(finite, one)
    guard.check(4)
    guard.note(False, one)
    guard.check(5)
    guard.check(5)  # nothing new
    guard.note(False, one)
    with pytest.raises(FloatingPointError, match=r"by step 6 of stage token, 3 steps in a row"):
        guard.check(6)


@pytest.mark.parametrize(("counts_norms", "stops"), [(True, True), (False, False)])
def test_an_overflow_of_fp16_is_no_fault(runtime: Runtime, tmp_path: Path, counts_norms: bool, stops: bool) -> None:
    guard = a_guard(tmp_path, runtime, stop_after=1, counts_norms=counts_norms)
    guard.note(True, torch.tensor(math.inf))
    if stops:
        with pytest.raises(FloatingPointError, match=r"^the gradient's norm is not finite by step 1 of stage token; "):
            guard.check(1)
    else:
        guard.check(1)


def test_what_is_left_out_keeps_its_names_and_counts_nothing() -> None:
    left = zeroed({"loss/mlm": MeanMetric.of(torch.tensor([math.nan]))})["loss/mlm"]
    assert (float(left.total), float(left.count)) == (0.0, 0.0)
    assert float((left + MeanMetric.of(torch.tensor([3.0]))).mean()) == 3.0


def test_a_bool_is_copied_in_the_background(gpu: FakeGpu) -> None:
    values = torch.tensor([1.0, math.nan])
    for where in (torch.Tensor, OnGpu):
        answers = [deferred_bool(value.isfinite().as_subclass(where)) for value in values]
        assert [answer() for answer in answers] == [True, False]
    assert gpu.stream.done == 2, "two copies were awaited"
