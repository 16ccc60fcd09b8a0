"""What is written of a retrieval evaluation, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_world import files_below

from msp_ds.data.shards import open_set
from msp_ds.errors import InputError
from msp_ds.model.encoder import Trunk
from msp_ds.model.heads import build_heads
from msp_ds.report.retrieval import evaluate_retrieval
from msp_ds.train import new_config
from msp_ds.training.inference import TrainedModel


def test_grades_go_into_a_folder(small_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    config = new_config({"shards": str(small_shards)})
    trunk = Trunk(config.model)
    checkpoint = tmp_path / "run" / "3-sentence" / "checkpoints" / "step-00000012"
    model = TrainedModel(
        checkpoint=checkpoint, config=config, trunk=trunk, heads=build_heads(["match"], config.model, trunk)
    )
    held_out = open_set(small_shards / "sentence" / "val")
    with pytest.raises(InputError, match=r"taken cannot be written .* name another folder with --out"):
        evaluate_retrieval(model, held_out, num_images=3, captions_per_image=1, out=tmp_path / "taken")
    for images, captions, pool in ((3, 1, "3x1"), (4, None, "4xall")):
        report = evaluate_retrieval(
            model, held_out, num_images=images, captions_per_image=captions, out=tmp_path / "grades"
        )
        assert report.path.name == f"retrieval-3-sentence-step-00000012-on-sentence-val-{pool}.json"
        said = json.loads(report.path.read_text())
        assert (said["num_images"], said["index_sha256"]) == (images, held_out.index_sha256)
    assert len(files_below(tmp_path / "grades")) == 4
