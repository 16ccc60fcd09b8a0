"""The kind of a detector by its content, and one line for what is none."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import picture, save, save_yolos, transformers
from vg_files import recipe_weights, write_detector

from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectorOptions
from msp_ds.regions.detectors import find
from msp_ds.regions.detectors.find import find_detector
from msp_ds.regions.same_detector import options_of

PLAIN = DetectorOptions()


def _vit(folder: Path) -> Path:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=48, patch_size=8
    )
    return save(
        folder, transformers.ViTModel(config), transformers.ViTImageProcessorPil(size={"height": 48, "width": 48})
    )


def _vg(folder: Path) -> Path:
    torch.save(recipe_weights(), folder.parent / "x.pth")
    return write_detector(folder, folder.parent / "x.pth", shorter_side=90, longer_side=160, proposals=20)


def _message(name: Path | str, options: DetectorOptions = PLAIN) -> str:
    with pytest.raises(InputError) as caught:
        find_detector(str(name), options=options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_config_json_tells_a_detector_from_a_backbone(tmp_path: Path) -> None:
    for folder, kind in ((save_yolos(tmp_path / "a"), "transformers"), (_vit(tmp_path / "b"), "grid")):
        assert find_detector(str(folder), options=PLAIN).record.kind == kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "both"}, "kind grid has no choice of features; leave out --features both"),
        ({"selection": "max-nms"}, "kind grid has no choice of selection; leave out --selection max-nms"),
        ({"regions": 0}, "--regions 0 is not positive"),
    ],
)
def test_a_choice_that_a_kind_has_not_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    assert message in _message(_vit(tmp_path / "vit"), DetectorOptions(**options))


def test_an_onnx_file_has_no_choice_of_precision(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(b"")
    assert "kind onnx has no choice of precision" in _message(tmp_path, DetectorOptions(precision="bf16"))
    (tmp_path / "b.onnx").write_bytes(b"")
    assert "holds 2 .onnx files; name one" in _message(tmp_path)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_raw_weights_of_visual_genome_name_the_command_that_imports_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    weights = {"backbone.stem.conv1.weight": np.zeros(3)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": weights, "__author__": "x"}))
    else:
        torch.save({"model": {name: torch.from_numpy(value) for name, value in weights.items()}}, path)
    assert f"msp-ds import {path} --from vg-detector --objects-vocab FILE" in _message(path)


def test_other_weights_files_and_folders_are_no_detectors(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("x")
    assert _message(tmp_path / "other.txt").endswith("is no detector; it should be an .onnx file or a folder")
    assert "is no detector; its folder should hold detector.json" in _message(tmp_path)
    (tmp_path / "detector.json").write_text('{"kind": "yolo"}')
    assert "detector.json" in _message(tmp_path)
    assert "File name too long" in _message("x" * 300)


def test_bf16_on_a_processor_without_it_is_warned_of_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(_vit(tmp_path / "vit"))
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has, "avx2": True})
        caplog.clear()
        find_detector(folder, options=DetectorOptions(precision="bf16"))
        assert len(caplog.records) == (not has)
        assert has or "takes many times as long as fp32" in caplog.text
    find_detector(folder, options=PLAIN)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("device", ["meta", "gpu", "privateuseone"])
def test_a_device_that_cannot_compute_here_is_refused(device: str) -> None:
    assert f"torch has no device {device} here" in _message("any", DetectorOptions(device=device))


KINDS: dict[str, tuple[Any, DetectorOptions]] = {
    "transformers": (save_yolos, DetectorOptions(regions=9, features="both", precision="bf16")),
    "grid": (_vit, DetectorOptions(regions=9, precision="bf16")),
    "vg": (_vg, DetectorOptions(regions=9, selection="max-nms", precision="bf16")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_alone_reopens_a_detector_in_another_folder(tmp_path: Path, kind: str) -> None:
    save_kind, options = KINDS[kind]
    record = find_detector(str(save_kind(tmp_path / "one")), options=options).record
    assert record.kind == kind
    again = shutil.copytree(tmp_path / "one", tmp_path / "other")
    found = find_detector(str(again), options=options_of(record, device="cpu")).record
    assert (found.identity, found.name) == (record.identity, "other")


def test_a_damaged_file_of_weights_is_one_line(tmp_path: Path) -> None:
    for save_kind in (save_yolos, _vg):
        folder = save_kind(tmp_path / save_kind.__name__)
        (weights,) = folder.glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-9])
        assert str(folder) in _message(folder)
        weights.unlink()
        assert str(folder) in _message(folder)


def test_a_config_of_no_known_model_and_a_checkpoint_of_ours_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    assert "cannot be loaded as AutoConfig" in _message(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be loaded as AutoConfig" in _message(tmp_path)


def test_a_name_of_the_hub_without_network_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.INFO):
        assert "nobody/no-such-detector cannot be loaded as AutoConfig" in _message("nobody/no-such-detector")
    assert caplog.messages == ["nobody/no-such-detector is no folder or file here: it is looked for on the hub"]


class _Entry:
    """An entry point of an installed package."""

    name = "mine"

    @staticmethod
    def load() -> Any:
        return lambda *, options: ("mine", options)


def test_an_entry_point_is_called_with_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(*, group: str, name: str = "mine") -> Any:
        found = [_Entry()] if (group, name) == ("msp_ds.detectors", "mine") else []
        return importlib.metadata.EntryPoints(found)

    monkeypatch.setattr(find, "entry_points", entry_points)
    options = DetectorOptions(regions=7, selection="given")
    assert find_detector("mine", options=options) == ("mine", options)
    message = _message("yours")
    assert "yours is no file or folder, no detector of a package (there are: mine)" in message


HIDDEN = """
import importlib, pkgutil, sys
sys.modules["transformers"] = sys.modules["onnxruntime"] = None  # as if not installed
import msp_ds
from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectorOptions
from msp_ds.regions.detectors.find import find_detector
for module in pkgutil.walk_packages(msp_ds.__path__, "msp_ds."):
    if module.name.rpartition(".")[2] not in ("hugging_face", "grid", "onnx_file"):
        importlib.import_module(module.name)
for name in sys.argv[1:]:
    try:
        find_detector(name, options=DetectorOptions())
    except InputError as error:
        sys.stdout.write(f"{error}\\n")
"""


@pytest.mark.slow
def test_everything_but_their_detectors_works_without_transformers_and_onnxruntime(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    names = [str(tmp_path / "a.onnx"), str(tmp_path / "model"), "org/name"]
    result = subprocess.run([sys.executable, "-c", HIDDEN, *names], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    fix = "which is missing: pip install 'msp-ds[regions]'"
    needs = ["onnxruntime", "transformers", "transformers"]
    assert result.stdout.splitlines()[-3:] == [
        f"{name} needs {lib}, {fix}" for name, lib in zip(names, needs, strict=True)
    ]


def test_regions_come_from_a_detector_that_was_found(tmp_path: Path) -> None:
    detector = find_detector(str(save_yolos(tmp_path / "model")), options=DetectorOptions(regions=4))
    assert [len(found.boxes) for found in detector.detect([picture(90, 120), picture(64, 64, seed=1)])] == [4, 4]
