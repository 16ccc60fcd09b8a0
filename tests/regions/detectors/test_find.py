"""A detector is known by its content."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_model import write_onnx

from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectorOptions
from msp_ds.regions.detectors.find import find_detector


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    write_onnx(
        path, size=8, outputs={"boxes": np.zeros((1, 1, 4), np.float32), "scores": np.ones((1, 1, 1), np.float32)}
    )
    (tmp_path / "names.txt").write_text("cat\n")
    (tmp_path / "small.toml").write_text(
        'labels = "names.txt"\nfeature_maps = ["map"]\n[input]\nname = "picture"\nsize = [8, 8]\n'
        '[output]\nboxes = "boxes"\nscores = "scores"\n'
    )
    return path


def refusal(name: str | Path, **options: object) -> str:
    with pytest.raises(InputError) as refused:
        find_detector(str(name), options=DetectorOptions(**options))
    return str(refused.value)


def test_a_model_is_found_by_its_file_or_folder(model: Path) -> None:
    by_file, by_folder = (
        find_detector(str(path), options=DetectorOptions()).record.identity for path in (model, model.parent)
    )
    assert by_file == by_folder


def test_an_option_that_the_kind_does_not_have_is_refused(model: Path) -> None:
    assert refusal(model, selection="max-nms").endswith("kind onnx, which has no --selection; leave it out")
    assert refusal(model, precision="bf16").endswith("kind onnx, which has no --precision; leave it out")


def test_an_entry_point_of_another_package(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[msp_ds.detectors]\nmine = mine_detector:open_it\n")
    (tmp_path / "site" / "mine_detector.py").write_text(
        "def open_it(*, options):\n    return ('mine', options.regions)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find_detector("mine", options=DetectorOptions(regions=9)) == ("mine", 9)
    assert refusal("yours").endswith("nor the name of a model on the hub, as org/name; entry points are mine")


@pytest.mark.parametrize("library", ["onnxruntime", "transformers"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    library: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library or name.endswith("onnx_file")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    name = model if library == "onnxruntime" else tmp_path / "vit"
    assert refusal(name).endswith("pip install 'msp-ds[regions]'")


def test_what_is_no_detector_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.pkl").write_bytes(b"")
    assert "msp-ds import" in refusal(tmp_path / "weights.pkl")
    (tmp_path / "photo.jpg").write_bytes(b"")
    assert "is no detector: it should be an .onnx file" in refusal(tmp_path / "photo.jpg")
    assert "is no detector" in refusal(tmp_path)
    assert "neither a file or folder nor" in refusal("centernet")


def test_a_hub_name_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refusal("nobody/none-such")
    assert "nobody/none-such is not here and cannot be loaded from the hub" in message
    assert "\n" not in message
