"""Features of another detector are refused wherever another vocabulary is, even where all widths agree."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from command_line import refusal, run

import msp_ds
from msp_ds.config import RunConfig, from_json, to_json, write_json
from msp_ds.data.format.requirements import require_same_words
from msp_ds.data.format.shards import open_set
from msp_ds.detector_record import DetectorRecord
from msp_ds.errors import CheckpointError, ShardError
from msp_ds.exchange.weights_export import ExportPlan, export_weights
from msp_ds.exchange.weights_import import ImportPlan, import_weights
from msp_ds.training.assembly.checks import check_agreement
from msp_ds.training.checkpointing.checkpoint import MANIFEST, WEIGHTS
from msp_ds.training.checkpointing.run_folder import RUN_FILE, check_same_backbone, origin_of
from msp_ds.training.checkpointing.weights_folder import read_card
from msp_ds.training.checkpointing.weights_history import stored_weights
from msp_ds.training.options import RunOptions
from msp_ds.training.planning import new_config

VG = DetectorRecord(kind="vg", name="frcnn", weights_sha256="a" * 64, settings={"selection": "caffe"})
ONNX = DetectorRecord(kind="onnx", name="centernet", weights_sha256="b" * 64)
BOTH = r"of the detector {}, .* those of {}"
VG_TEXT, ONNX_TEXT = r"vg frcnn \(weights aaaaaaaa, selection caffe\)", r"onnx centernet \(weights bbbbbbbb\)"


def with_detector(file: Path, record: DetectorRecord) -> Path:
    """An index.json or model.json that names a detector."""
    value = json.loads(file.read_text()) | {"detector": to_json(record)}
    file.write_text(json.dumps(value))
    return file.parent


@pytest.fixture
def here(looking_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """shards by VG; runs/tps by ONNX, runs/vqa by VG, and runs/s that does not name its detector."""
    for name in ("shards", "runs"):
        shutil.copytree(looking_site / name, tmp_path / name)
    for index in (tmp_path / "shards").glob("*/*/index.json"):
        with_detector(index, VG)
    with_detector(tmp_path / "runs" / "tps" / "model.json", ONNX)
    with_detector(tmp_path / "runs" / "vqa" / "model.json", VG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "search dog --checkpoint runs/tps",
        "explain --checkpoint runs/s --checkpoint runs/tps --image IMAGE",
        "evaluate --checkpoint runs/tps --shards shards/sentence/val",
    ],
)
def test_commands_that_look_refuse_another_detector_and_name_both(here: Path, words: str) -> None:
    line = refusal(*words.replace("IMAGE", open_set(Path("shards/sentence/val")).keys[0]).split())
    assert line == (
        "shards/sentence/val holds regions of the detector vg frcnn (weights aaaaaaaa, selection caffe), runs/tps "
        "those of onnx centernet (weights bbbbbbbb); write the set from regions of the latter: "
        "msp-ds shard --stage sentence --regions FOLDER"
    )


def test_a_model_of_the_same_or_an_unknown_detector_is_taken(here: Path) -> None:
    assert run("search", "dog", "--checkpoint", "runs/s").exit_code == 0
    model = msp_ds.load("runs/vqa", shards="shards/vqa/val")
    assert model.answer("what is it ?", model.image_ids[0])


def test_a_new_run_has_the_detector_of_its_sets_and_keeps_it_in_run_json(here: Path) -> None:
    config = new_config(RunOptions(curriculum="s"))
    assert config.detector == VG
    assert from_json(RunConfig, to_json(config), where="a test") == config
    older = to_json(config)
    del older["detector"]
    assert from_json(RunConfig, older, where="a test").detector is None


def test_a_start_from_a_model_of_another_detector_is_refused(here: Path) -> None:
    config = new_config(RunOptions(curriculum="s"))
    with pytest.raises(CheckpointError, match=rf"^runs/tps was trained on regions {BOTH.format(ONNX_TEXT, VG_TEXT)}"):
        check_same_backbone(Path("runs/tps"), config)
    check_same_backbone(Path("runs/s"), config)
    check_same_backbone(Path("runs/tps"), dataclasses.replace(config, detector=None))


def test_sets_of_one_run_are_of_one_detector(here: Path) -> None:
    train, val = (open_set(Path("shards/sentence") / split) for split in ("train", "val"))
    check_agreement([train, val], new_config(RunOptions(curriculum="s")))
    with_detector(Path("shards/sentence/val/index.json"), ONNX)
    other = open_set(Path("shards/sentence/val"))
    with pytest.raises(ShardError, match=rf"^shards/sentence/val holds regions {BOTH.format(ONNX_TEXT, VG_TEXT)}"):
        require_same_words(train, other)
    with pytest.raises(ShardError, match=rf"holds regions {BOTH.format(VG_TEXT, ONNX_TEXT)}"):
        check_agreement([train], dataclasses.replace(new_config(RunOptions(curriculum="s")), detector=ONNX))


def test_sets_of_two_detectors_do_not_mix_beside_one_of_an_unknown_one(here: Path) -> None:
    index = Path("shards/sentence/train/index.json")
    index.write_text(
        json.dumps({key: value for key, value in json.loads(index.read_text()).items() if key != "detector"})
    )
    config = new_config(RunOptions(curriculum="s"))
    assert config.detector is None
    shutil.copytree("shards/sentence/val", "more/sentence/val")
    with_detector(Path("more/sentence/val/index.json"), ONNX)
    sets = [open_set(Path(name)) for name in ("shards/sentence/train", "shards/sentence/val", "more/sentence/val")]
    check_agreement(sets[:2], config)
    with pytest.raises(ShardError, match=rf"^more/sentence/val holds regions {BOTH.format(ONNX_TEXT, VG_TEXT)}"):
        check_agreement(sets, config)


def test_the_detector_goes_from_a_run_into_its_weights(here: Path) -> None:
    config = new_config(RunOptions(curriculum="s"))
    checkpoint = here / "run" / "1-sentence" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (here / "run" / RUN_FILE).write_text(json.dumps({"config": to_json(config)}))
    data = Path("runs/s/weights.safetensors").read_bytes()
    (checkpoint / WEIGHTS).write_bytes(data)
    files = {WEIGHTS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    write_json(checkpoint / MANIFEST, {"step": 1, "files": files, "state": {}, "loss_scale": None})
    assert origin_of(checkpoint).detector == VG
    assert stored_weights(checkpoint, vocab=None).card.detector == VG


def test_exported_and_imported_weights_keep_the_detector(here: Path) -> None:
    export_weights(ExportPlan(source=Path("runs/vqa"), form="hf", out=Path("hf")))
    import_weights(ImportPlan(source=Path("hf"), form="hf-lxmert", out=Path("back")))
    assert read_card(Path("back")).detector == stored_weights(Path("runs/vqa"), vocab=None).card.detector == VG
    assert "Regions by vg frcnn (weights aaaaaaaa, selection caffe)." in Path("hf/README.md").read_text()
