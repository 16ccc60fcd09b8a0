"""Every encoder trains under the same heads, tasks and curriculum, and ranks images for captions afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
import torch
from command_line import run
from lessons import TASKS, a_batch, an_engine

from msp_ds.config import OptimConfig
from msp_ds.curriculum import curriculum
from msp_ds.model.encoder import Backbone
from msp_ds.presets import get_preset
from msp_ds.training.checkpointing.checkpoint import read_weights
from msp_ds.training.checkpointing.run_folder import find_checkpoint
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.engine import build_optimizer
from msp_ds.training.pretraining_model import PretrainingModel


@pytest.mark.parametrize("stage", ["t", "p", "s"])
@pytest.mark.parametrize("name", tiny.FAMILY)
def test_each_stage_is_memorised_by_each_encoder(name: str, stage: str) -> None:
    torch.manual_seed(5)
    tasks = curriculum(stage)[0].tasks
    context = tiny.context(token_probability=0.5, region_probability=0.3, ifrs_probability=1.0)
    model = PretrainingModel(Backbone(tiny.FAMILY[name]), tasks, context).eval()
    optimizer, batch = build_optimizer(model, OptimConfig(lr=0.01)), a_batch(1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        scored = model(batch, tasks, 0)
        scored.total.backward()
        optimizer.step()
        losses.append(
            {task: float(metric.mean()) for task, metric in scored.metrics.items() if task.startswith("loss/")}
        )
    assert losses[0].keys() == {"loss/total", *(f"loss/{task.name}" for task in tasks)}
    assert losses[-1]["loss/total"] < 0.7 * losses[0]["loss/total"]
    for part, parameter in model.named_parameters():
        assert parameter.grad is not None, part


@pytest.mark.parametrize("name", tiny.FAMILY)
def test_bf16_with_zero_starts_like_fp32_without(name: str, runtime: Runtime) -> None:
    losses = []
    for execution in ({"precision": "fp32"}, {"precision": "bf16", "zero_stage": 1, "bucket_elements": 10**6}):
        torch.manual_seed(5)
        config = dataclasses.replace(tiny.FAMILY[name], dropout=0.0)
        model = PretrainingModel(
            Backbone(config), TASKS, tiny.context(token_probability=0.5, region_probability=0.3, ifrs_probability=1.0)
        )
        engine = an_engine(model, runtime, **execution)
        losses.append(float(engine.engine(a_batch(1).to(runtime.device), TASKS, 0).total.detach()))
        engine.close()
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny-lxmert", "tiny-single-stream"])
def test_a_run_of_all_stages_hands_its_backbone_on_and_is_graded(
    preset: str, small_shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    flags = ("--preset", preset, "--batch-size", "16", "--max-steps", "2")
    assert run("train", "--shards", small_shards, "--run-dir", folder, *flags).exit_code == 0
    with torch.device("meta"):
        wanted = Backbone(get_preset(preset).model).state_dict()
    for stage in ("1-token", "2-phrase", "3-sentence"):
        weights = read_weights(find_checkpoint(folder / stage))
        assert {f"backbone.{name}" for name in wanted} == {name for name in weights if name.startswith("backbone.")}
    shown = run("evaluate", "--checkpoint", folder, "--shards", small_shards / "sentence" / "val", "--images", 4)
    assert shown.exit_code == 0
    assert "Zero-shot retrieval: 4 held-out images" in shown.stdout
