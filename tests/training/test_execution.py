"""A way to execute is read strictly, splits the batch exactly, and becomes a dict that the real engine accepts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from msp_ds.errors import InputError
from msp_ds.training import execution
from msp_ds.training.execution import (
    SHIPPED,
    Execution,
    LossScale,
    accumulation,
    choose_execution,
    deepspeed_config,
    find_shipped,
    grad_scaler_settings,
    read_execution,
)

ROOT = Path(__file__).resolve().parents[2]


SHIPPED_NAMES = ["cpu_bf16", "cpu_fp32", "gpu_bf16", "titanx_fp16", "zero1", "zero2"]


def written(folder: Path, value: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(value))
    return path


def config(**settings: Any) -> dict[str, Any]:
    return deepspeed_config(Execution(**settings), batch_size=128, world_size=4, clip_norm=0.5)


def all_keys(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(all_keys(part) for part in value.values()))


def test_the_shipped_files_are_the_six_ways_of_the_readme() -> None:
    assert sorted(path.stem for path in SHIPPED.glob("*.json")) == SHIPPED_NAMES
    readme = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}.json` |" in readme for name in SHIPPED_NAMES)


@pytest.mark.parametrize(
    ("name", "precision", "zero_stage"),
    [
        ("titanx_fp16", "fp16", 0),
        ("gpu_bf16", "bf16", 0),
        ("cpu_fp32", "fp32", 0),
        ("cpu_bf16", "bf16", 0),
        ("zero1", "bf16", 1),
        ("zero2", "bf16", 2),
    ],
)
def test_a_shipped_file_holds_what_its_name_says(name: str, precision: str, zero_stage: int) -> None:
    execution = read_execution(SHIPPED / f"{name}.json")
    assert (execution.precision, execution.zero_stage) == (precision, zero_stage)


def test_every_key_is_in_the_readme_with_its_default() -> None:
    rows = (SHIPPED / "README.md").read_text(encoding="utf-8").splitlines()
    for kind, prefix in ((Execution, ""), (LossScale, "loss_scale.")):
        for name, item in kind.__dataclass_fields__.items():
            row = next(row for row in rows if row.startswith(f"| `{prefix}{name}` |"))
            default = row.split("|")[3].strip().strip("`")
            assert default == ("required" if name == "precision" else json.dumps(item.default))


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({}, "missing key precision"),
        ({"precision": "fp64"}, "precision: 'fp64' is none of fp32, fp16, bf16"),
        ({"precision": "auto"}, "precision: 'auto' is none of"),
        ({"precision": "fp32", "zero_stage": "auto"}, "zero_stage: expected int, got 'auto'"),
        ({"precision": "fp32", "zero_stage": True}, "zero_stage: expected int, got True"),
        ({"precision": "fp32", "zero_stage": 4}, "zero_stage 4 is none of 0, 1, 2, 3"),
        ({"precision": "fp32", "micro_batch": 0}, "micro_batch 0 is not positive"),
        ({"precision": "fp32", "micro_batch": 1.5}, "micro_batch: expected int, got 1.5"),
        ({"precision": "fp32", "bucket_elements": 0}, "bucket_elements 0 is not positive"),
        ({"precision": "fp32", "gradient_cliping": 1.0}, "unknown key gradient_cliping; known are precision,"),
        ({"precision": "fp32", "fp16": {"enabled": True}}, "unknown key fp16"),
        ({"precision": "bf16", "loss_scale": {}}, "loss_scale has no effect with precision bf16; take it out"),
        ({"precision": "fp16", "loss_scale": {"hysteresis": 2}}, "hysteresis above 1 has no effect with zero_stage 0"),
        ({"precision": "fp16", "loss_scale": {"window": 1}}, "loss_scale: unknown key window"),
        ({"precision": "fp16", "loss_scale": {"loss_scale_window": 0}}, "loss_scale_window 0 is not positive"),
        ({"precision": "fp16", "loss_scale": {"initial_scale_power": -1}}, "initial_scale_power -1 is not in 0 to 32"),
        (
            {"precision": "fp16", "loss_scale": {"initial_scale_power": 3, "min_loss_scale": 16}},
            "min_loss_scale 16 is above the initial scale 2^3",
        ),
        ([], "expected a table, got []"),
    ],
)
def test_what_is_not_exactly_right_is_refused_with_the_file_and_the_key(tmp_path: Path, value: Any, part: str) -> None:
    path = written(tmp_path, value)
    with pytest.raises(InputError) as caught:
        read_execution(path)
    assert str(caught.value).startswith(str(path))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cpu_fp32\.json, gpu_bf16\.json"):
        read_execution(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ([], "cpu_fp32"),
        ([(8, 0)], "gpu_bf16"),
        ([(9, 0), (12, 0)], "gpu_bf16"),
        ([(7, 5)], "titanx_fp16"),
        ([(6, 1)], "titanx_fp16"),
        ([(9, 0), (5, 2)], "titanx_fp16"),
    ],
)
def test_the_hardware_chooses(monkeypatch: pytest.MonkeyPatch, capabilities: list[tuple[int, int]], name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    assert choose_execution() == (name, read_execution(SHIPPED / f"{name}.json"))


@pytest.mark.parametrize(
    ("micro_batch", "batch_size", "world_size", "expected"),
    [
        (None, 128, 1, (128, 1)),
        (None, 128, 4, (32, 1)),
        (32, 128, 1, (32, 4)),
        (16, 128, 4, (16, 2)),
        (64, 128, 4, (32, 1)),  # a rank's share is smaller than what it could take
        (1, 3, 3, (1, 1)),
    ],
)
def test_micro_batch_times_passes_times_ranks_is_the_batch(
    micro_batch: int | None, batch_size: int, world_size: int, expected: tuple[int, int]
) -> None:
    execution = Execution(precision="fp32", micro_batch=micro_batch)
    micro, steps = accumulation(execution, batch_size=batch_size, world_size=world_size)
    assert (micro, steps) == expected
    assert micro * steps * world_size == batch_size


@pytest.mark.parametrize(
    ("micro_batch", "batch_size", "world_size", "part"),
    [
        (None, 128, 3, "does not split evenly over 3 ranks"),
        (None, 2, 4, "does not split evenly over 4 ranks"),
        (48, 128, 1, "micro_batch 48 does not divide the 128 pairs.*; set it to 32"),
        (5, 28, 2, "micro_batch 5 does not divide the 14 pairs.*; set it to 2"),
    ],
)
def test_a_batch_that_does_not_split_evenly_is_refused_with_the_mend(
    micro_batch: int | None, batch_size: int, world_size: int, part: str
) -> None:
    execution = Execution(precision="fp32", micro_batch=micro_batch)
    with pytest.raises(InputError, match=part):
        accumulation(execution, batch_size=batch_size, world_size=world_size)


def test_the_dict_for_fp32_without_zero_is_written_out_in_full() -> None:
    assert config(precision="fp32", micro_batch=8) == {
        "train_batch_size": 128,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "steps_per_print": 2**31 - 1,
        "zero_optimization": {"stage": 0},
    }


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_sixteen_bits_without_zero_are_autocast(precision: str, dtype: str) -> None:
    made = config(precision=precision)
    assert made["torch_autocast"] == {"enabled": True, "dtype": dtype}
    assert not {"fp16", "bf16"} & set(made)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_with_zero_are_deepspeeds_own_block(precision: str, zero_stage: int) -> None:
    made = config(precision=precision, zero_stage=zero_stage)
    assert made[precision]["enabled"] is True
    assert {"fp16", "bf16", "torch_autocast"} & set(made) == {precision}
    assert made["zero_optimization"]["stage"] == zero_stage


def test_the_loss_scale_reaches_both_of_its_homes() -> None:
    scale = LossScale(initial_scale_power=10, loss_scale_window=50, min_loss_scale=4)
    block = config(precision="fp16", zero_stage=1, loss_scale=scale)["fp16"]
    assert block == {
        "enabled": True,
        "loss_scale": 0,
        "initial_scale_power": 10,
        "loss_scale_window": 50,
        "hysteresis": 1,
        "min_loss_scale": 4,
    }
    settings = grad_scaler_settings(Execution(precision="fp16", loss_scale=scale))
    scaler = torch.amp.GradScaler(device="cpu", **settings)  # type: ignore[arg-type]
    assert (scaler.get_scale(), scaler.get_growth_interval()) == (1024.0, 50)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_dict_holds_nothing_that_is_owned_elsewhere(precision: str, zero_stage: int) -> None:
    made = config(precision=precision, zero_stage=zero_stage)
    assert not {"optimizer", "scheduler", "tensorboard", "csv_monitor", "elasticity"} & all_keys(made)
    assert "auto" not in json.dumps(made).replace("torch_autocast", "")


def test_importing_the_module_leaves_deepspeed_alone() -> None:
    command = "import sys, msp_ds.training.execution; sys.exit('deepspeed' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=120)


# Two parameters of a linear regression under the real engine: prints the losses, and the types of weight and output.
TOY_RUN = """
import json, sys
from pathlib import Path
import deepspeed, torch
from msp_ds.config import from_json
from msp_ds.training.execution import Execution, deepspeed_config

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed(dist_backend="gloo", verbose=False)
torch.manual_seed(0)
inputs = torch.randn(8, 4)
targets = inputs @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
settings = from_json(Execution, json.loads(sys.argv[1]), where="the test")
engine, *_ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.AdamW(model.parameters(), lr=0.02, fused=True),
    config=deepspeed_config(settings, batch_size=8, world_size=1, clip_norm=1.0),
)
weight = next(engine.module.parameters())
losses = []
for _ in range(6):
    for part in range(engine.gradient_accumulation_steps()):
        size = engine.train_micro_batch_size_per_gpu()
        rows = slice(part * size, (part + 1) * size)
        outputs = engine(inputs[rows].to(weight.dtype))
        loss = (outputs.float() - targets[rows]).square().mean()
        losses.append(loss.item())
        engine.backward(loss)
        engine.step()
report = {"losses": losses, "weight": str(weight.dtype), "output": str(outputs.dtype), "steps": engine.global_steps}
Path(sys.argv[2]).write_text(json.dumps(report))
"""


def toy_run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train six steps in a process of its own: autocast leaves marks in a process."""
    report = folder / "report.json"
    lonely = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TOY_RUN, json.dumps(settings), str(report)],
        env={**os.environ, **lonely, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, Any] = json.loads(report.read_text())
    return loaded


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "fp16 ZeRO 1": {"precision": "fp16", "zero_stage": 1},
    "fp32 ZeRO 2": {"precision": "fp32", "zero_stage": 2},
    "bf16 ZeRO 3": {"precision": "bf16", "zero_stage": 3},
    "fp32 in four passes": {"precision": "fp32", "micro_batch": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIPPED_NAMES, *OTHER_WAYS])
def test_the_real_engine_trains_with_it(name: str, tmp_path: Path) -> None:
    settings = OTHER_WAYS.get(name) or json.loads((SHIPPED / f"{name}.json").read_text())
    execution = read_execution(written(tmp_path, settings))
    if name == "fp16 ZeRO 1" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("DeepSpeed refuses its fp16 block on a processor without fp16 arithmetic")
    report = toy_run(settings, tmp_path)

    sixteen = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}[execution.precision]
    passes = len(report["losses"]) // 6
    assert report["steps"] == 6
    assert sum(report["losses"][-passes:]) < sum(report["losses"][:passes])
    assert report["output"] == sixteen
    assert report["weight"] == (sixteen if execution.zero_stage else "torch.float32")


def test_what_comes_with_the_project_is_found_beside_it_or_under_the_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_shipped(Path("ds_configs/zero1.json")) == ROOT / "ds_configs" / "zero1.json"
    assert read_execution(Path("ds_configs/zero1.json")).zero_stage == 1
    assert find_shipped(Path("mine.json")) == Path("mine.json")  # and the error names what was asked for
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / "ds_configs" / "zero1.json").write_text("{}")
    assert find_shipped(Path("ds_configs/zero1.json")) == Path("ds_configs/zero1.json")
    # As installed: nothing beside the package, and what pyproject.toml puts under the prefix.
    monkeypatch.setattr(execution, "__file__", str(tmp_path / "lib" / "msp_ds" / "training" / "execution.py"))
    installed = (ROOT / "pyproject.toml").read_text()
    for folder, files in (("ds_configs", "ds_configs/*.json"), ("shards", "shards/*.toml")):
        assert f'"share/msp_ds/{folder}" = ["{files}"]' in installed
        assert execution.shipped(folder) == Path(sysconfig.get_path("data")) / "share" / "msp_ds" / folder
