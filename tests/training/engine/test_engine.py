"""DeepSpeed does what a plain torch loop does, and a gradient that is scaled wrongly is noticed."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.accelerator import get_accelerator
from lessons import OPTIM, TASKS, a_batch, a_learner, an_engine, one_step
from no_waiting import NoWaiting
from torch import nn

from msp_ds.config import OptimConfig
from msp_ds.curriculum import curriculum
from msp_ds.tasks.targets import count_targets
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine, build_optimizer, learning_rate
from msp_ds.training.engine.execution import Execution
from msp_ds.training.pretraining_model import PretrainingModel

HERE = Path(__file__).parent


def rates(num_steps: int, **settings: float) -> list[float]:
    optim = OptimConfig(lr=1.0, **settings)
    return [learning_rate(optim, step=step, num_steps=num_steps) for step in range(num_steps)]


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    # 10 steps, 4 of warm-up: quarters up, then sixths down
    assert rates(10, warmup_ratio=0.4) == pytest.approx(
        [1 / 4, 2 / 4, 3 / 4, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )


def test_without_warm_up_the_rate_only_falls() -> None:
    assert rates(4, warmup_ratio=0.0) == pytest.approx([1, 3 / 3, 2 / 3, 1 / 3])


def test_a_stage_of_one_step_trains_at_the_peak() -> None:
    assert rates(1) == [1.0]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100, 12345])
def test_the_rate_is_never_zero_and_never_above_the_peak(num_steps: int) -> None:
    found = rates(num_steps)
    assert min(found) > 0
    assert max(found) == 1.0
    assert found[-1] <= 2 / num_steps


def by_decay(model: PretrainingModel) -> tuple[set[int], set[int]]:
    """Ids of the weights that decay and of those that do not."""
    decaying, still = build_optimizer(model, OPTIM).param_groups
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.01, 0.0)
    return {id(p) for p in decaying["params"]}, {id(p) for p in still["params"]}


@pytest.mark.parametrize("stage", ["t", "p", "s", "t+p+s"])
def test_matrices_decay_and_biases_norms_and_single_vectors_do_not(stage: str) -> None:
    model = a_learner(stage)
    decaying, still = by_decay(model)
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            is_matrix = isinstance(module, (nn.Linear, nn.Embedding)) and kind == "weight"
            assert (id(parameter) in decaying) == is_matrix, f"{name}.{kind}"
            assert (id(parameter) in still) != is_matrix, f"{name}.{kind}"
    assert id(model.backbone.regions.cls_feature) in still


def test_every_weight_is_in_one_group_and_the_tied_decoder_once() -> None:
    model = a_learner()
    groups = build_optimizer(model, OPTIM).param_groups
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))
    assert model.heads["token"].decoder.weight is model.backbone.text.word.weight
    assert listed.count(id(model.backbone.text.word.weight)) == 1


def a_plain_loop(model: PretrainingModel, runtime: Runtime) -> Callable[..., float]:
    """A step of torch's own AdamW on the mean of micro batches; returns the gradient's norm before clipping."""
    model.to(runtime.device)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.999), eps=1e-6, foreach=False)

    def step(*batches: Any) -> float:
        optimizer.zero_grad()
        for batch in batches:
            (model(batch.to(runtime.device), TASKS, 0).total / len(batches)).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return float(norm)

    return step


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_steps_of_the_engine_are_steps_of_torch(runtime: Runtime, num_micro_batches: int) -> None:
    model = a_learner()
    plain = copy.deepcopy(model)
    engine = an_engine(model, runtime, batch_size=4 * num_micro_batches, micro_batch=4)
    plain_step = a_plain_loop(plain, runtime)
    for step in range(3):
        batches = [a_batch(10 * step + number) for number in range(num_micro_batches)]
        one_step(engine, runtime, *batches)
        norm = plain_step(*batches)
        assert norm > OPTIM.clip_norm, "nothing is clipped, so clipping is not tested"
        assert float(engine.grad_norm) == pytest.approx(norm, rel=1e-4)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if name.endswith("key.bias"):  # softmax cancels it: its gradient is rounding error, which AdamW amplifies
            continue
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    engine.close()


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_the_norm_is_known_and_nothing_clipped_at_a_clip_norm_of_0(runtime: Runtime, zero_stage: int) -> None:
    free, held = (a_learner() for _ in range(2))
    execution = Execution(precision="fp32", zero_stage=zero_stage, bucket_elements=1_000_000)
    norms = []
    for model, clip_norm in ((free, 0.0), (held, 1e9)):
        optim = dataclasses.replace(OPTIM, clip_norm=clip_norm)
        engine = Engine(model, optim=optim, execution=execution, batch_size=4, runtime=runtime)
        one_step(engine, runtime, a_batch(1))
        norms.append(float(engine.grad_norm))
        engine.close()
    assert norms[0] == norms[1] > OPTIM.clip_norm
    assert all(torch.equal(one, other) for one, other in zip(free.parameters(), held.parameters(), strict=True))


def test_gradients_that_overflow_at_the_lowest_scale_end_in_a_line(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = an_engine(a_learner(), runtime)

    def raises(text: str) -> Callable[[], None]:
        def step() -> None:
            raise Exception(text)

        return step

    # As DeepSpeed's DynamicLossScaler.update_scale does.
    lowest = "Current loss scale already at minimum - cannot decrease scale anymore. Exiting run."
    monkeypatch.setattr(engine.engine, "step", raises(lowest))
    with pytest.raises(FloatingPointError, match=r"overflow at the lowest loss scale, 1; .* bf16 or fp32 --ds-config"):
        engine.step()
    monkeypatch.setattr(engine.engine, "step", raises("another"))
    with pytest.raises(Exception, match=r"^another$"):
        engine.step()
    monkeypatch.undo()
    engine.close()


def test_deepspeeds_message_at_the_lowest_scale_is_the_expected_one() -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    from msp_ds.training.engine.engine import _AT_LOWEST_SCALE

    scaler = DynamicLossScaler(1, 1, 1, 1, False)
    with pytest.raises(Exception, match=_AT_LOWEST_SCALE):
        scaler.update_scale(True)


def test_the_optimiser_waits_for_the_last_micro_batch(runtime: Runtime) -> None:
    model = a_learner()
    engine = an_engine(model, runtime, batch_size=8, micro_batch=4)
    before = model.backbone.regions.feature.weight.detach().clone()
    one_step(engine, runtime, a_batch(1))
    assert torch.equal(model.backbone.regions.feature.weight, before)
    one_step(engine, runtime, a_batch(2))
    assert not torch.equal(model.backbone.regions.feature.weight, before)
    engine.close()


@pytest.mark.parametrize("how", [{}, {"precision": "bf16"}, {"zero_stage": 1}, {"zero_stage": 2}])
def test_a_step_does_not_wait_for_the_device(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    model, waits = a_learner(), []
    engine = an_engine(model, runtime, **how)
    monkeypatch.setattr(get_accelerator(), "synchronize", lambda *_: waits.append("synchronize"))
    one_step(engine, runtime, a_batch(0))  # whose gradient is checked on the host
    for seed in range(1, 6):
        batch = a_batch(seed)
        padded_counts = count_targets(batch, TASKS, model.context)
        # ZeRO's optimisers read the norm on the host, whatever the configuration says.
        with nullcontext() if engine.execution.zero_stage else NoWaiting():
            engine.backward(engine.engine(batch, TASKS, 0, padded_counts).total)
            engine.step()
    assert waits == []
    engine.close()


def test_the_rate_is_that_of_the_step_for_every_group(runtime: Runtime) -> None:
    engine = an_engine(a_learner(), runtime)
    engine.set_rate(0.125)
    assert [group["lr"] for group in engine.engine.optimizer.param_groups] == [0.125, 0.125]
    engine.close()


@pytest.mark.parametrize("factor", [1 / 65536, 0.5, 2.0, 65536.0, 0.0, math.nan])
def test_a_gradient_that_is_scaled_wrongly_stops_the_run_at_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    model = a_learner()
    engine = an_engine(model, runtime)
    before = copy.deepcopy(model.state_dict())
    right = engine.engine.backward
    monkeypatch.setattr(engine.engine, "backward", lambda loss: right(loss * factor))
    with pytest.raises(RuntimeError, match=r"scales gradients to .* instead of .*; training would go wrong silently"):
        one_step(engine, runtime, a_batch(1))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    engine.close()


def test_a_gradient_divided_by_the_accumulation_twice_stops_the_run(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = an_engine(a_learner(), runtime, batch_size=8, micro_batch=4)
    right = engine.engine.backward
    monkeypatch.setattr(engine.engine, "backward", lambda loss: right(loss / 2))
    with pytest.raises(RuntimeError, match="scales gradients"):
        one_step(engine, runtime, a_batch(1))
    engine.close()


@pytest.mark.parametrize("stage", ["t", "p", "s"])
@pytest.mark.parametrize("gate", ["pair", "none"])
def test_the_self_check_has_something_to_compare_in_every_stage(runtime: Runtime, stage: str, gate: str) -> None:
    model = a_learner(stage)
    if "region" in model.heads:
        model.heads["region"].gated = gate == "pair"
    for task in curriculum(stage)[0].tasks:  # alone too, as --drop leaves it
        loss = model(a_batch(1, pairs=8), [task], 0).total
        (gradient,) = torch.autograd.grad(loss, model.backbone.regions.feature_norm.bias)
        assert gradient.norm() > 0, task.name


def test_the_self_check_runs_once(runtime: Runtime) -> None:
    engine = an_engine(a_learner(), runtime)
    assert not engine._checked
    one_step(engine, runtime, a_batch(1))
    assert engine._checked
    engine.close()


def test_a_loss_without_a_gradient_leaves_the_self_check_for_later(runtime: Runtime) -> None:
    engine = an_engine(a_learner(), runtime)
    engine.backward(engine.engine(a_batch(1).to(runtime.device), TASKS, 0).total * 0.0)
    assert not engine._checked
    engine.close()


def test_a_full_precision_run_scales_nothing(runtime: Runtime) -> None:
    engine = an_engine(a_learner(), runtime)
    assert engine.scaler is None
    assert engine.loss_scale == 1.0
    engine.close()


def test_no_extension_is_compiled_on_a_cpu(runtime: Runtime) -> None:
    if runtime.device.type != "cpu":
        pytest.skip("DeepSpeed builds its shared-memory op on CPUs alone")
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False


# fp16 with ZeRO off, in a process of its own: autocast changes the state of a process. It prints its findings as JSON.
HALF = """
import json, os, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import torch
from msp_ds.training.distributed.runtime import start_runtime
runtime = start_runtime(os.environ)
from lessons import a_batch, a_learner, a_save, an_engine, an_engine_from, one_step
from msp_ds.training.engine.execution import LossScale

folder = Path(sys.argv[3])
found = {}
model = a_learner()
scale = LossScale(initial_scale_power=10, loss_scale_window=3)
engine = an_engine(model, runtime, precision="fp16", loss_scale=scale)
found["scaler"] = type(engine.scaler).__name__, engine.scaler.get_scale(), engine.scaler.get_growth_interval()
found["autocast"] = engine.engine.torch_autocast_enabled(), str(engine.engine.torch_autocast_dtype())
found["fp16 block"] = engine.engine.fp16_enabled()
one_step(engine, runtime, a_batch(1))
found["checked"] = engine._checked
found["weights"] = sorted({str(p.dtype) for p in model.parameters()})
for seed in (2, 3, 4):
    one_step(engine, runtime, a_batch(seed))
found["grown"] = engine.loss_scale
path = a_save(folder, engine, runtime, step=4)

found["fresh"] = an_engine(a_learner(seed=1), runtime, precision="fp16").loss_scale
again = an_engine_from(path, runtime, precision="fp16", loss_scale=scale)
found["restored"] = again.loss_scale
found["growth tracker"] = again.scaler.state_dict() == engine.scaler.state_dict()
for one in (engine, again):
    one_step(one, runtime, a_batch(5))
pairs = zip(engine.engine.module.parameters(), again.engine.module.parameters())
found["same next step"] = all(torch.equal(a, b) for a, b in pairs)

high = an_engine(a_learner(), runtime, precision="fp16", loss_scale=LossScale(initial_scale_power=32))
before = [p.detach().clone() for p in high.engine.module.parameters()]
one_step(high, runtime, a_batch(1))
found["overflow"] = high._checked, high.loss_scale
found["overflow left weights"] = all(torch.equal(a, b) for a, b in zip(before, high.engine.module.parameters()))

plain = an_engine(a_learner(), runtime, precision="fp32")
one_step(plain, runtime, a_batch(1))
found["from fp32"] = an_engine_from(a_save(folder, plain, runtime, step=9), runtime, precision="fp16").loss_scale
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The findings of HALF."""
    folder = tmp_path_factory.mktemp("half")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HALF, str(HERE.parent), str(HERE.parents[1] / "support"), str(folder)],
        env={name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_PORT")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.split("FOUND ")[1])
    return found


def test_fp16_without_zero_is_autocast_with_fp32_weights(half: dict[str, Any]) -> None:
    assert half["autocast"] == [True, "torch.float16"]
    assert half["fp16 block"] is False
    assert half["weights"] == ["torch.float32"]


def test_fp16_without_zero_scales_as_the_settings_say(half: dict[str, Any]) -> None:
    assert half["scaler"] == ["GradScaler", 1024.0, 3]
    assert half["checked"] is True
    assert half["grown"] == 2048.0  # after a window of three good steps


def test_the_loss_scale_comes_back_from_a_checkpoint(half: dict[str, Any]) -> None:
    assert half["fresh"] == 65536.0
    assert half["restored"] == 2048.0
    assert half["growth tracker"] is True
    assert half["same next step"] is True


def test_a_first_step_that_overflows_is_skipped_and_no_false_alarm(half: dict[str, Any]) -> None:
    assert half["overflow"] == [False, 2.0**31]
    assert half["overflow left weights"] is True


def test_fp16_goes_on_from_a_checkpoint_of_fp32(half: dict[str, Any]) -> None:
    assert half["from fp32"] == 65536.0
