"""The benches of the loop: turns are fair, rounds add up, and the plain step is the loop's mathematics."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from msp_ds.config import ModelConfig
from msp_ds.presets import get_preset
from msp_ds.training.cadence import REPORT_EVERY
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from tools.bench.common.figures import Clock, Times, spread
from tools.bench.common.replayed_loop import PlainStep, Stand
from tools.bench.common.step_pool import Pool, a_context
from tools.bench.engine import STEPS, Turns, compared, rounds

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
MODEL = ModelConfig(
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    vocab_size=1200,
    feature_width=8,
    num_objects=11,
    num_attributes=7,
    dropout=0.0,
)


def test_a_round_holds_one_report() -> None:
    assert STEPS == REPORT_EVERY


def test_the_two_ways_begin_in_turn() -> None:
    order: list[str] = []
    turns = Turns(step_batches=[0, 1, 2, 3], plain=lambda step: order.append(f"plain {step}"), clock=Clock(CPU))  # type: ignore[list-item]
    for step in turns:
        order.append(f"loop {step}")
    assert order == ["loop 0", "plain 0", "plain 1", "loop 1", "loop 2", "plain 2", "plain 3", "loop 3"]
    assert len(turns.loop_steps) == len(turns.plain_steps) == 4


def test_rounds_are_sums_after_one_to_warm_up() -> None:
    steps = [Times(100.0, 200.0)] * STEPS + [Times(1.0, 2.0)] * STEPS + [Times(3.0, 4.0)] * STEPS
    assert rounds(steps) == [Times(10.0, 20.0), Times(30.0, 40.0)]


def test_the_loop_is_compared_round_by_round() -> None:
    turns = Turns(step_batches=[], plain=print, clock=Clock(CPU))
    turns.plain_steps = [Times(1.0, 1.0)] * (4 * STEPS)
    turns.loop_steps = [Times(9.0, 9.0)] * STEPS
    turns.loop_steps += [Times(seconds, 2.0) for seconds in (1.0, 1.5, 2.0) for _ in range(STEPS)]
    found = compared(turns)
    assert found["of_rounds"] == {"median": 1.5, "least": 1.0, "most": 2.0, "of_sums": 1.5}
    assert found["of_rounds_by_the_wall"]["median"] == 2.0
    assert (found["loop_seconds"], found["plain_seconds"]) == (1.5, 1.0)


def test_the_spread_is_of_rounds_and_of_their_sums() -> None:
    assert spread([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "least": 1.0, "most": 3.0, "of_sums": 15 / 8}


def test_a_plain_step_on_a_corrupted_batch_is_the_plain_step(tmp_path: Path) -> None:
    preset = dataclasses.replace(get_preset("tiny"), model=MODEL)
    stand = Stand(
        preset=preset,
        batch_size=4,
        num_steps=8,
        runtime=Runtime(rank=0, world_size=1, device=CPU),
        execution=Execution(precision="fp32"),
        folder=tmp_path,
    )
    context, pool = a_context(MODEL), Pool(MODEL, batch_size=4)
    models = [stand.model(context) for _ in range(2)]
    corrupts, corrupted = (PlainStep(stand, model) for model in models)
    for step, pairs in enumerate(pool.choices(2)):
        step_batch = stand.step_batch(step, pool.batch(pairs), context)
        assert torch.equal(corrupts(step_batch), corrupted.on_corrupted(step_batch, corrupted.corrupted(step_batch)))
    assert all(torch.equal(*both) for both in zip(*(one.parameters() for one in models), strict=True))


def left_by(tool: str, *words: object, out: Path) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, words), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.full
@pytest.mark.slow
def test_the_engine_is_timed_beside_the_plain_loop(tmp_path: Path) -> None:
    found = left_by(
        "bench/engine.py", "--preset", "tiny", "--batch-size", 4, "--repeat", 1, out=tmp_path / "engine.json"
    )
    assert found["of_rounds"]["median"] > 0
    assert found["loop_seconds"] > 0


@pytest.mark.full
@pytest.mark.slow
def test_two_ranks_are_timed_beside_one(tmp_path: Path) -> None:
    words = ("--preset", "tiny", "--batch-size", 4, "--steps", 1, "--repeat", 1)
    found = left_by("bench/scaling.py", *words, out=tmp_path / "scaling.json")
    assert set(found["ranks"]) == {"one rank", "two ranks, the same batch", "two ranks, as much work each"}


@pytest.mark.full
@pytest.mark.slow
def test_the_whole_way_is_timed_beside_the_bare_step(small_shards: Path, tmp_path: Path) -> None:
    words = ("--preset", "tiny", "--shards", small_shards, "--batch-size", 8, "--steps", 2, "--repeat", 4)
    found = left_by("bench/end_to_end.py", *words, out=tmp_path / "whole.json")
    milliseconds = found["milliseconds"]
    assert all(milliseconds[name]["cpu"] > 0 for name in ("whole", "bare", "corruption", "step", "save"))
