"""What an engine has learnt goes from any ZeRO stage and number of ranks to any other, and not a bit is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import LEAVE, a_batch, a_learner, a_save, an_engine, an_engine_from, one_step
from safetensors.torch import load_file
from tiny import FP32_BOUND
from torch import nn

from msp_ds.training.checkpointing.checkpoint import OPTIMIZER, WEIGHTS, read_manifest
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import Engine
from msp_ds.training.engine.engine_state import PartitionSlice

HERE = Path(__file__).parent
SMALL = {"bucket_elements": 100_000}
LAYOUTS: dict[str, dict[str, Any]] = {
    "off": {},
    "zero 1": {"zero_stage": 1, **SMALL},
    "zero 3": {"zero_stage": 3, **SMALL},
    "zero 2 bf16": {"zero_stage": 2, "precision": "bf16", **SMALL},
    "zero 3 bf16": {"zero_stage": 3, "precision": "bf16", **SMALL},
    "zero 1 fp16": {"zero_stage": 1, "precision": "fp16", **SMALL},
}


def layout(name: str) -> dict[str, Any]:
    if name.endswith("fp16") and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("DeepSpeed refuses its fp16 block on a processor without fp16 arithmetic")
    return LAYOUTS[name]


def content(path: Path) -> tuple[bytes, bytes]:
    """All that a checkpoint holds, to the last bit."""
    return (path / WEIGHTS).read_bytes(), (path / OPTIMIZER).read_bytes()


def train(engine: Engine, runtime: Runtime, *seeds: int) -> None:
    for seed in seeds:
        one_step(engine, runtime, a_batch(seed))


@pytest.fixture(scope="module")
def trained(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after two steps, with ZeRO off in fp32."""
    engine = an_engine(a_learner(), runtime)
    train(engine, runtime, 1, 2)
    path = a_save(tmp_path_factory.mktemp("trained"), engine, runtime, step=2)
    engine.close()
    return path


def test_a_checkpoint_holds_every_weight_and_both_moments_of_each(trained: Path) -> None:
    model = a_learner()
    weights, moments = load_file(trained / WEIGHTS), load_file(trained / OPTIMIZER)
    assert weights.keys() == model.state_dict().keys()
    parameters = dict(model.named_parameters())
    assert moments.keys() == {f"{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in parameters}
    for name, parameter in parameters.items():
        assert moments[f"step.{name}"].tolist() == 2.0
        assert moments[f"exp_avg.{name}"].shape == moments[f"exp_avg_sq.{name}"].shape == parameter.shape
    assert {tensor.dtype for tensor in (*weights.values(), *moments.values())} == {torch.float32}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_laid_out_in_any_way_comes_back_bit_for_bit(
    runtime: Runtime, trained: Path, tmp_path: Path, name: str
) -> None:
    engine = an_engine_from(trained, runtime, **layout(name))
    assert content(a_save(tmp_path, engine, runtime)) == content(trained)
    engine.close()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_resumed_engine_goes_on_as_if_it_had_never_stopped(runtime: Runtime, tmp_path: Path, name: str) -> None:
    unbroken = an_engine(a_learner(), runtime, **layout(name))
    train(unbroken, runtime, 1, 2)
    path = a_save(tmp_path / "middle", unbroken, runtime)
    resumed = an_engine_from(path, runtime, **layout(name))
    for engine in (unbroken, resumed):
        engine.set_rate(0.003)
        train(engine, runtime, 3, 4)
    ends = [a_save(tmp_path / side, engine, runtime) for side, engine in (("a", unbroken), ("b", resumed))]
    assert content(ends[0]) == content(ends[1])
    assert content(ends[0]) != content(path)
    assert read_manifest(ends[0]).loss_scale == read_manifest(ends[1]).loss_scale
    for engine in (unbroken, resumed):
        engine.close()


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "16" not in name])
def test_a_step_after_the_change_is_the_step_that_would_have_been(
    runtime: Runtime, trained: Path, tmp_path: Path, name: str
) -> None:
    ends = []
    for way in ("off", name):
        engine = an_engine_from(trained, runtime, **layout(way))
        train(engine, runtime, 3)
        ends.append(load_file(a_save(tmp_path / f"to {way}", engine, runtime) / WEIGHTS))
        engine.close()
    for weight in ends[0]:
        if not weight.endswith("key.bias"):  # softmax does not feel it: rounding, which AdamW blows up
            torch.testing.assert_close(ends[1][weight], ends[0][weight], atol=FP32_BOUND, rtol=0)


def test_weights_in_16_bits_are_saved_as_their_fp32_copies(runtime: Runtime, tmp_path: Path) -> None:
    engine = an_engine(a_learner(), runtime, zero_stage=2, precision="bf16", **SMALL)
    engine.set_rate(1e-5)  # far below what bf16 can see
    before = {name: tensor.float() for name, tensor in engine.engine.module.state_dict().items()}
    train(engine, runtime, 1)
    saved = load_file(a_save(tmp_path, engine, runtime) / WEIGHTS)
    moved = [name for name, tensor in saved.items() if not torch.equal(tensor, before[name])]
    assert len(moved) > len(saved) / 2
    for name, tensor in engine.engine.module.state_dict().items():
        assert torch.equal(saved[name].to(tensor.dtype), tensor), name
    engine.close()


def test_moments_that_are_not_there_yet_are_not_made_up(runtime: Runtime, tmp_path: Path) -> None:
    engine = an_engine(a_learner(), runtime)
    path = a_save(tmp_path / "new", engine, runtime)
    assert load_file(path / OPTIMIZER) == {}
    for name in ("off", "zero 1", "zero 3"):
        again = an_engine_from(path, runtime, **layout(name))
        assert load_file(a_save(tmp_path / name, again, runtime) / OPTIMIZER) == {}
        train(again, runtime, 1)
        assert load_file(a_save(tmp_path / name, again, runtime) / OPTIMIZER)["step.backbone.text.norm.bias"] == 1
        again.close()
    engine.close()


@pytest.mark.parametrize("width", [0, 3])
def test_a_place_is_written_and_read_alike(width: int) -> None:
    # Five values on two ranks: in one stretch from the third element on, or three of each rank from the second on.
    rows, values = torch.zeros(2, 4), torch.arange(1.0, 6.0)
    place = PartitionSlice(nn.Parameter(values), values.shape, 1 if width else 2, width)
    place.write(rows, values)
    expected = [[0, 1, 2, 3], [0, 4, 5, 0]] if width else [[0, 0, 1, 2], [3, 4, 5, 0]]
    assert rows.tolist() == expected
    assert place.read(rows).tolist() == values.tolist()


# Of each layout: a checkpoint loaded and saved, trained on for a step and for another, and for the other after a stop.
RANKS = """
import json, os, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from msp_ds.training.distributed.runtime import start_runtime
runtime = start_runtime(os.environ)
import tiny
from lessons import a_batch, a_save, an_engine_from, one_step
from tiny import FP32_BOUND

def train(engine, seed):
    share = 4 // runtime.world_size
    one_step(engine, runtime, tiny.rows(a_batch(seed), range(share * runtime.rank, share * (runtime.rank + 1))))

for name, layout in json.loads(sys.argv[5]).items():
    folder = Path(sys.argv[4]) / name
    engine = an_engine_from(Path(sys.argv[3]), runtime, **layout)
    a_save(folder / "kept", engine, runtime)
    train(engine, 3)
    half = a_save(folder / "half", engine, runtime)
    train(engine, 4)
    a_save(folder / "whole", engine, runtime)
    engine.close()
    engine = an_engine_from(half, runtime, **layout)
    train(engine, 4)
    a_save(folder / "rest", engine, runtime)
    engine.close()
"""


@pytest.mark.full
@pytest.mark.slow
def test_two_ranks_hold_what_one_had_give_it_back_and_go_on_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    layouts = {name: how for name, how in LAYOUTS.items() if how.get("precision") != "fp16"}
    (tmp_path / "ranks.py").write_text(RANKS + LEAVE)
    words = [str(HERE.parent), str(HERE.parents[1] / "support"), str(trained), str(tmp_path), json.dumps(layouts)]
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    launched = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launched, str(tmp_path / "ranks.py"), *words], env=alone, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in layouts:
        kept, half, whole, rest = (
            content(tmp_path / name / step / "step-00000001") for step in ("kept", "half", "whole", "rest")
        )
        assert kept == content(trained), name
        assert rest == whole, name
        assert len({kept, half, whole}) == 3, name
