"""Silent faults of DeepSpeed and our workarounds.

Each fault has two tests: one fails if our workaround is removed, the other, `still there`, fails when DeepSpeed has
fixed the fault. Then the workaround can go, after a look at what else has changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import LEAVE, TASKS, a_batch, a_learner, an_engine, one_step

from msp_ds.training.distributed.runtime import COLLECTIVE_TIMEOUT, Runtime

HERE = Path(__file__).parent
PACKAGE = HERE.parents[2] / "msp_ds"

# A linear model with two heads under bare DeepSpeed; the findings of each trap are printed.
BARE = """
import json, os, sys
from datetime import timedelta
from msp_ds.training.distributed.runtime import COLLECTIVE_TIMEOUT, start_runtime
runtime = start_runtime(os.environ)
import deepspeed, torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import groups
from torch import nn
get_accelerator().is_fp16_supported = lambda: True  # torch computes in half on any CPU, if slowly

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 1), nn.Linear(8, 1)
        self.register_buffer("shift", torch.ones(8))

    def forward(self, inputs, heads):
        hidden = torch.tanh(self.body(inputs))
        return sum(getattr(self, head)(hidden).float().square().mean() for head in heads)

def an_engine(**config):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    base = {"train_batch_size": 4 * runtime.world_size, "zero_allow_untested_optimizer": True, **config}
    return deepspeed.initialize(model=model, optimizer=optimizer, config=base, dist_init_required=False)[0]

def a_gradient(engine):
    seen, probe = [], engine.module.body.bias
    probe.register_hook(lambda gradient: seen.append(gradient.float().norm().item()))
    loss = engine(torch.ones(4, 8, dtype=probe.dtype), ["one"])
    engine.backward(loss)
    return seen[0]

def loss_scale():
    plain = a_gradient(an_engine())
    half = {"enabled": True, "initial_scale_power": 8}
    return [a_gradient(an_engine(fp16=half, zero_optimization={"stage": stage})) / plain for stage in (0, 1)]

def autocast_clipping():
    plain = an_engine(gradient_clipping=1e-3)
    before = a_gradient(plain)
    engine = an_engine(
        gradient_clipping=1e-3, torch_autocast={"enabled": True, "dtype": "float16"}, zero_optimization={"stage": 1}
    )
    a_gradient(engine)
    engine.step()
    return float(engine.get_global_grad_norm()) / before

def stale_gradient():
    moved = []
    for stage in (2, 3):
        engine = an_engine(zero_optimization={"stage": stage}, gradient_clipping=0.0)
        for heads in (["one", "other"], ["one"], ["one"]):
            other = deepspeed.utils.safe_get_full_fp32_param(engine.module.other.weight).clone()
            engine.backward(engine(torch.ones(4, 8), heads))
            engine.step()
        now = deepspeed.utils.safe_get_full_fp32_param(engine.module.other.weight)
        moved.append(float((now - other).norm()))
    return moved

def unknown_key():
    return an_engine(gradient_cliping=0.5).gradient_clipping()

def timeouts():
    engine = an_engine()
    group = groups._get_sequence_data_parallel_group()
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()

def buffers():
    return str(an_engine(bf16={"enabled": True}, zero_optimization={"stage": 1}).module.shift.dtype)

traps = (loss_scale, stale_gradient, unknown_key, buffers, autocast_clipping)  # autocast changes a process's state
found = timeouts() if runtime.world_size > 1 else {trap.__name__: trap() for trap in traps}
if runtime.is_first:
    print("FOUND " + json.dumps(found))
"""


def found_by(script: str, *, ranks: int = 1) -> Any:
    """The findings of a script that runs in processes of its own."""
    rank_variables = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in rank_variables}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "--no-python"]
    command = [sys.executable, *(launcher if ranks > 1 else ()), *([sys.executable] if ranks > 1 else ())]
    done = subprocess.run(
        [*command, "-W", "ignore", "-c", script + LEAVE], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("FOUND ")[1].splitlines()[0])


@pytest.fixture(scope="module")
def bare() -> dict[str, Any]:
    """The findings of every trap of BARE."""
    found: dict[str, Any] = found_by(BARE)
    return found


@pytest.mark.slow
def test_still_there_the_fp16_block_does_not_scale_the_loss_with_zero_off(bare: dict[str, Any]) -> None:
    # Our workaround: torch_autocast with ZeRO off (test_execution), and the check of the first gradient (test_engine).
    assert bare["loss_scale"] == [pytest.approx(1, rel=0.05), pytest.approx(256, rel=0.05)]


@pytest.mark.slow
def test_still_there_autocast_with_zero_takes_the_norm_of_scaled_gradients(bare: dict[str, Any]) -> None:
    # Our workaround: the fp16 block with ZeRO on (test_execution).
    assert bare["autocast_clipping"] > 65536 / 2


@pytest.mark.slow
def test_still_there_zero_3_applies_the_old_gradient_of_an_unused_head(bare: dict[str, Any]) -> None:
    # Our workaround: mixed stages are refused under ZeRO 3 (test_loop), and every head is touched (below).
    zero_2, zero_3 = bare["stale_gradient"]
    assert zero_2 == 0
    assert zero_3 > 1e-3


@pytest.mark.slow
def test_still_there_an_unknown_key_is_ignored(bare: dict[str, Any]) -> None:
    # Our workaround: a schema of our own (test_execution).
    assert bare["unknown_key"] == 1.0


@pytest.mark.slow
def test_still_there_the_data_parallel_group_has_a_timeout_of_its_own() -> None:
    assert found_by(BARE, ranks=2) == 1800


@pytest.mark.slow
def test_still_there_buffers_stay_in_fp32_beside_16_bit_weights(bare: dict[str, Any]) -> None:
    # Our workaround: the model adds its buffer in the type of the weights (tests/model/test_embeddings.py).
    assert bare["buffers"] == "torch.float32"


# The data-parallel group of our engine, as timeouts() finds that of DeepSpeed's.
HARDENED = """
import json, os, sys
sys.path[:0] = {paths!r}
from msp_ds.training.distributed.runtime import start_runtime
runtime = start_runtime(os.environ)
import torch
from deepspeed.utils import groups
from lessons import a_learner, an_engine
an_engine(a_learner(), runtime)
group = groups._get_sequence_data_parallel_group()
if runtime.is_first:
    print("FOUND " + json.dumps(group._get_backend(torch.device("cpu")).options._timeout.total_seconds()))
"""


@pytest.mark.full
@pytest.mark.slow
def test_a_rank_waits_as_long_for_gradients_as_for_anything_else() -> None:
    script = HARDENED.format(paths=[str(HERE.parent), str(HERE.parents[1] / "support")])
    assert found_by(script, ranks=2) == COLLECTIVE_TIMEOUT.total_seconds()


# Whether a step fails where a rank comes later than the timeout, with compiled layers and without.
LATE = """
import json, os, sys, time
sys.path[:0] = {paths!r}
from datetime import timedelta
from msp_ds.training.distributed import runtime
from msp_ds.training.engine import engine
runtime.COLLECTIVE_TIMEOUT = engine.COLLECTIVE_TIMEOUT = timedelta(seconds=2)
here = runtime.start_runtime(os.environ)
import lessons, tiny, torch
found = []
for compiles in (True, False):
    one = lessons.an_engine(lessons.a_learner(), here, compile=compiles)
    here.gather("both are ready")
    time.sleep(5 * here.rank)
    try:
        lessons.one_step(one, here, tiny.rows(lessons.a_batch(1), range(here.rank, 4, 2)))
        here.sum(torch.ones(1))
        found.append("went on")
    except RuntimeError as error:
        found.append(["ended", runtime.has_lost_a_rank(error)])
if here.is_first:
    print("FOUND " + json.dumps(found))
"""


@pytest.mark.full
@pytest.mark.slow
def test_a_rank_that_compiles_is_waited_for_and_one_that_does_not_is_given_up() -> None:
    script = LATE.format(paths=[str(HERE.parent), str(HERE.parents[1] / "support")])
    assert found_by(script, ranks=2) == ["went on", ["ended", True]]


# How far a step moves the weights that the token stage does not read without a region gate: the poolers.
UNREAD = """
import dataclasses, json, os, sys
sys.path[:0] = {paths!r}
from msp_ds.training.distributed.runtime import start_runtime
runtime = start_runtime(os.environ)
import lessons, tiny
lessons.MODEL = dataclasses.replace(lessons.MODEL, region_gate="none")
found = []
for zero_stage in (0, 2):
    model = lessons.a_learner()
    model(lessons.a_batch(1), lessons.TASKS, 0).total.backward()
    unread = [(weight, weight.detach().clone()) for weight in model.parameters() if weight.grad is None]
    model.zero_grad()
    engine = lessons.an_engine(model, runtime, zero_stage=zero_stage)
    rows = range(runtime.rank, 4, runtime.world_size)
    lessons.one_step(engine, runtime, tiny.rows(lessons.a_batch(1), rows))
    found.append([float((weight - before).abs().sum()) for weight, before in unread])
    engine.close()
if runtime.is_first:
    print("FOUND " + json.dumps(found))
"""


@pytest.mark.full
@pytest.mark.slow
def test_what_no_loss_reads_decays_alike_on_any_number_of_ranks() -> None:
    script = UNREAD.format(paths=[str(HERE.parent), str(HERE.parents[1] / "support")])
    one, two = found_by(script), found_by(script, ranks=2)
    assert one[0] == two[0] == [0.0] * len(one[0]) != []
    assert one[1] == two[1]


def test_every_head_has_a_gradient_whatever_a_step_leaves_out(runtime: Runtime) -> None:
    model = a_learner("t+p+s")
    model(a_batch(1), [TASKS[0]], 0).total.backward()
    for name, parameter in model.heads.named_parameters():
        assert parameter.grad is not None, name


def test_nothing_is_reduced_alone(runtime: Runtime) -> None:
    engine = an_engine(a_learner(), runtime)
    assert engine.engine.enable_backward_allreduce is False
    one_step(engine, runtime, a_batch(1))
    engine.close()


def test_deepspeeds_own_checkpoints_are_neither_written_nor_read() -> None:
    """They can be incomplete although marked as the latest, and be loaded in part silently."""
    for path in (PACKAGE / "training").rglob("*.py"):  # elsewhere weights come from other programs
        source = path.read_text(encoding="utf-8")
        for call in (".save_checkpoint(", ".load_checkpoint(", "zero_to_fp32", "torch.load("):
            assert call not in source, f"{path.name}: {call}"


def test_each_trap_was_seen_in_this_version() -> None:
    import deepspeed

    assert deepspeed.__version__.startswith("0.19."), "run the slow tests of this file and read the new version's notes"
    assert torch.__version__ >= "2.6"
