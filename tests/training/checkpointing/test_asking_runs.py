"""A run is asked about picture files with the words and answers of its own set, and its export without any."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from colour_detector import ColourDetector

import msp_ds
from msp_ds.errors import ShardError
from msp_ds.exchange.weights_export import ExportPlan, export_weights
from msp_ds.exchange.weights_import import ImportPlan, import_weights
from msp_ds.training.distributed.runtime import Runtime
from msp_ds.training.engine.execution import Execution
from msp_ds.training.guards.interrupt import StopRequest
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config
from msp_ds.training.run import train
from msp_ds.training.stage import Job

QUESTION = "what color is the ball ?"


def test_a_run_and_its_export_answer_alike(
    photo_site: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photo_site / "shards", "shards")
    options = RunOptions(curriculum="vqa", task="vqa", preset="tiny", shards="shards", batch_size=4, max_steps=1)
    job = Job(
        config=new_config(options),
        folder=Path("runs/vqa"),
        stop=StopRequest(),
        execution=Execution(precision="fp32"),
        runtime=runtime,
    )
    train(job)
    picture, ask = photo_site / "photographs" / "1.png", {"detector": ColourDetector(), "cache": "cache"}
    of_run = msp_ds.load("runs/vqa", **ask)  # type: ignore[arg-type]
    assert of_run.shards.path == Path("shards/vqa/val")
    answers = of_run.answer(QUESTION, picture)
    assert answers.keys() == {"red", "green", "blue"}
    export_weights(ExportPlan(source=Path("runs/vqa"), form="safetensors", out=Path("exported")))
    shutil.rmtree("shards")
    with pytest.raises(ShardError, match=r"shards/vqa, whose words .*, is not there; give the new folder .*: --shards"):
        msp_ds.load("runs/vqa", **ask)  # type: ignore[arg-type]
    for folder in ("exported", "imported"):
        if folder == "imported":
            import_weights(ImportPlan(source=Path("exported"), form="lxmert-s", out=Path(folder)))
        assert msp_ds.load(folder, **ask).answer(QUESTION, picture) == pytest.approx(answers)  # type: ignore[arg-type]
