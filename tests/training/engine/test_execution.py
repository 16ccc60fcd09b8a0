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
from msp_ds.training.engine import execution
from msp_ds.training.engine.execution import (
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

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "training-and-scale-out.md"


# Name -> precision and ZeRO stage.
SHIPPED_WAYS = {
    "titanx_fp16": ("fp16", 0),
    "gpu_bf16": ("bf16", 0),
    "cpu_fp32": ("fp32", 0),
    "cpu_bf16": ("bf16", 0),
    "zero1": ("bf16", 1),
    "zero2": ("bf16", 2),
    "zero3": ("bf16", 3),
    "zero2_offload": ("bf16", 2),
    "multi_node": ("bf16", 1),
}


def written(folder: Path, value: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(value))
    return path


def config(**settings: Any) -> dict[str, Any]:
    return deepspeed_config(Execution(**settings), batch_size=128, world_size=4, clip_norm=0.5)


def has_fp16() -> bool:
    """Whether DeepSpeed would run its fp16 block here."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def all_keys(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(all_keys(part) for part in value.values()))


def test_the_documentation_lists_the_shipped_files() -> None:
    assert {path.stem for path in SHIPPED.glob("*.json")} == set(SHIPPED_WAYS)
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}.json` |" in page for name in SHIPPED_WAYS)


@pytest.mark.parametrize("place", ["target", "plain", "user"])
def test_an_installed_package_finds_its_files_where_pip_puts_them(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / place / "share" / "msp_ds" / "ds_configs"
    data.mkdir(parents=True)
    monkeypatch.setattr(
        execution, "__file__", str(tmp_path / "target" / "msp_ds" / "training" / "engine" / "execution.py")
    )
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "plain"))
    monkeypatch.setattr("site.getuserbase", lambda: str(tmp_path / "user"))
    assert execution.shipped("ds_configs") == data


@pytest.mark.parametrize("name", SHIPPED_WAYS)
def test_a_shipped_file_has_the_settings_of_its_name(name: str) -> None:
    execution = read_execution(SHIPPED / f"{name}.json")
    assert (execution.precision, execution.zero_stage) == SHIPPED_WAYS[name]
    assert execution.offload_optimizer == (name == "zero2_offload")
    assert execution.overlap == (name in ("zero3", "multi_node"))


def test_the_documentation_lists_every_key_with_its_default() -> None:
    rows = PAGE.read_text(encoding="utf-8").splitlines()
    for kind, prefix in ((Execution, ""), (LossScale, "loss_scale.")):
        for name, item in kind.__dataclass_fields__.items():
            if name == "resident":
                continue  # the key is being removed
            row = next(row for row in rows if row.startswith(f"| `{prefix}{name}` |"))
            default = row.split("|")[3].strip().strip("`")
            assert default == ("required" if name == "precision" else json.dumps(item.default))


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({}, "missing key precision"),
        ({"precision": "fp64"}, "precision: 'fp64' is none of fp32, fp16, bf16"),
        ({"precision": "auto"}, "precision: 'auto' is none of"),
        (
            {"precision": "bf16", "tf32": True},
            "tf32 has no effect with precision bf16; set it to false, or precision to fp32",
        ),
        ({"precision": "fp32", "zero_stage": "auto"}, "zero_stage: expected int, got 'auto'"),
        ({"precision": "fp32", "zero_stage": True}, "zero_stage: expected int, got True"),
        ({"precision": "fp32", "zero_stage": 4}, "zero_stage 4 is not 0, 1, 2 or 3"),
        ({"precision": "fp32", "micro_batch": 0}, "micro_batch 0 is not positive"),
        ({"precision": "fp32", "micro_batch": 1.5}, "micro_batch: expected int, got 1.5"),
        ({"precision": "fp32", "bucket_elements": 0}, "bucket_elements 0 is not positive"),
        ({"precision": "fp32", "gradient_cliping": 1.0}, "unknown key gradient_cliping; known are precision,"),
        ({"precision": "fp32", "fp16": {"enabled": True}}, "fp16 is a key of DeepSpeed's own configuration"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "fp16 and bf16 exclude each other; write "),
        (
            {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 3},
            'the batch is --batch-size, and "micro_batch" splits',
        ),
        ({"zero_optimization": {"stage": 2}}, 'write "zero_stage"'),
        ({"precision": "fp32", "gradient_clipping": 1.0}, "use --set optim.clip_norm"),
        (
            {"precision": "fp32", "overlap": True},
            "overlap has no effect with zero_stage 0; set it to false, or zero_stage",
        ),
        (
            {"precision": "fp32", "offload_optimizer": True},
            "offload_optimizer has no effect with zero_stage 0; set it to",
        ),
        (
            {"precision": "fp32", "zero_stage": 2, "offload_optimizer": "cpu"},
            "offload_optimizer: expected bool, got 'cpu'",
        ),
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
def test_a_batch_that_does_not_split_evenly_is_refused_with_a_fix(
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
        "timers": {"throughput": {"enabled": False}},
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


def test_offloading_lays_the_optimiser_on_the_host_with_torchs_own_adam() -> None:
    made = config(precision="bf16", zero_stage=2, offload_optimizer=True, overlap=True)
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert made["zero_optimization"]["overlap_comm"] is True
    assert made["zero_force_ds_cpu_optimizer"] is False
    assert config(precision="bf16", zero_stage=2)["zero_optimization"]["offload_optimizer"] == {"device": "none"}


def test_importing_the_module_leaves_deepspeed_alone() -> None:
    command = "import sys, msp_ds.training.engine.execution; sys.exit('deepspeed' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=120)


# A few steps of the real model on one batch under the real engine; prints a report as JSON.
REAL_RUN = """
import json, os, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from msp_ds.training.distributed.runtime import start_runtime
runtime = start_runtime(os.environ)
from lessons import OPTIM, TASKS, a_batch, a_learner
from msp_ds.training.engine.engine import Engine
from msp_ds.training.engine.execution import read_execution

execution = read_execution(Path(sys.argv[3]))
engine = Engine(a_learner(), optim=OPTIM, execution=execution, batch_size=8, runtime=runtime)
deepspeed, losses = engine.engine, []
batches = [a_batch(seed, pairs=deepspeed.train_micro_batch_size_per_gpu()).to(runtime.device) for seed in range(8)]
for _ in range(6):
    for batch in batches[: deepspeed.gradient_accumulation_steps()]:
        loss = deepspeed(batch, TASKS, 0).total
        losses.append(loss.item())
        engine.backward(loss)
        engine.step()
weight = next(deepspeed.module.parameters())
said = {"losses": losses, "loss": str(loss.dtype), "weight": str(weight.dtype), "steps": deepspeed.global_steps}
said |= {"autocast": deepspeed.torch_autocast_enabled(), "norm": float(engine.grad_norm)}
said["offloaded"] = bool(getattr(deepspeed.optimizer, "cpu_offload", False))
print("FOUND " + json.dumps(said))
"""


def real_run(path: Path) -> dict[str, Any]:
    """Train six steps in a process of its own: autocast changes the state of a process."""
    here = Path(__file__).parent
    rank_variables = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REAL_RUN, str(here.parent), str(here.parents[1] / "support"), str(path)],
        env={name: value for name, value in os.environ.items() if name not in rank_variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, Any] = json.loads(done.stdout.split("FOUND ")[1])
    return loaded


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "fp16 ZeRO 1": {"precision": "fp16", "zero_stage": 1},
    "fp32 ZeRO 2": {"precision": "fp32", "zero_stage": 2},
    "bf16 ZeRO 3": {"precision": "bf16", "zero_stage": 3},
    "fp32 in four passes": {"precision": "fp32", "micro_batch": 2},
}


LONG_WAYS = {"zero2_offload", "zero3", "bf16 ZeRO 3", "multi_node", "gpu_bf16", "zero1"}
"""For .ci/full alone; the others test the same paths."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.full if name in LONG_WAYS else ()) for name in (*SHIPPED_WAYS, *OTHER_WAYS)],
)
def test_the_real_engine_trains_the_real_model_with_it(name: str, tmp_path: Path) -> None:
    path = SHIPPED / f"{name}.json" if name in SHIPPED_WAYS else written(tmp_path, OTHER_WAYS[name])
    execution = read_execution(path)
    if name == "fp16 ZeRO 1" and not has_fp16():
        pytest.skip("DeepSpeed refuses its fp16 block on a processor without fp16 arithmetic")
    report = real_run(path)

    sixteen = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}[execution.precision]
    passes = len(report["losses"]) // 6
    assert report["steps"] == 6
    assert sum(report["losses"][-passes:]) < sum(report["losses"][:passes])
    assert report["loss"] == "torch.float32"
    assert report["weight"] == (sixteen if execution.zero_stage else "torch.float32")
    assert report["autocast"] == (execution.precision != "fp32" and execution.zero_stage == 0)
    assert report["offloaded"] == execution.offload_optimizer
    assert report["norm"] > 0


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
    monkeypatch.setattr(
        execution, "__file__", str(tmp_path / "lib" / "msp_ds" / "training" / "engine" / "execution.py")
    )
    installed = (ROOT / "pyproject.toml").read_text()
    for folder, files in (("ds_configs", "ds_configs/*.json"), ("shards", "shards/*.toml")):
        assert f'"share/msp_ds/{folder}" = ["{files}"]' in installed
        assert execution.shipped(folder) == Path(sysconfig.get_path("data")) / "share" / "msp_ds" / folder
