"""Open a detector by a name: a file, a folder, an entry point or a model on the hub. Its content tells its kind."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from msp_ds.config import read_json
from msp_ds.errors import InputError
from msp_ds.regions.detector import Detector, DetectorOptions

ENTRY_POINTS = "msp_ds.detectors"
"""Group of entry points by which an installed package offers a detector: a function of `options` that returns one."""
DETECTOR_FILE = "detector.json"
"""In the folders that `msp-ds import --from vg-detector` writes."""

_RAW_WEIGHTS = (".pkl", ".pth", ".pt", ".bin")
_CHOICES: dict[str, set[str]] = {
    "vg": {"selection", "precision"},
    "onnx": set(),
    "transformers": {"features", "precision"},
    "grid": {"precision"},
}
"""Kind -> the options that it has beside the number of regions and the device."""
_OPENERS = {
    "vg": ("vg", "open_vg"),
    "onnx": ("onnx_file", "open_onnx"),
    "transformers": ("hugging_face", "open_hugging_face"),
    "grid": ("grid", "open_grid"),
}


def find_detector(name: str, *, options: DetectorOptions) -> Detector:
    """Open the detector that a file, folder, entry point or hub name stands for.

    Raises: InputError where there is none, where its kind lacks an option, and where its library is not installed.
    """
    path = Path(name)
    offered = {one.name: one for one in entry_points(group=ENTRY_POINTS)}
    if not path.exists() and name in offered:
        return cast(Detector, offered[name].load()(options=options))
    kind = _kind_of_path(path) if path.exists() else _kind_of_hub_name(name, others=sorted(offered))
    for item in dataclasses.fields(DetectorOptions):
        value = getattr(options, item.name)
        if value != item.default and item.name not in _CHOICES[kind] | {"regions", "device"}:
            raise InputError(f"{name} is a detector of kind {kind}, which has no --{item.name}; leave it out")
    module, function = _OPENERS[kind]
    opener = getattr(_import(f"msp_ds.regions.detectors.{module}"), function)
    return cast(Detector, opener(name if kind in ("transformers", "grid") else path, options=options))


def _kind_of_path(path: Path) -> str:
    if path.is_dir():
        if (path / DETECTOR_FILE).is_file():
            return "vg"
        if any(path.glob("*.onnx")):
            return "onnx"
        if (path / "config.json").is_file():
            config = read_json(path / "config.json", what="the configuration of a Hugging Face model")
            return _kind_of_model(str(config.get("model_type")) if isinstance(config, dict) else "")
    elif path.suffix == ".onnx":
        return "onnx"
    elif path.suffix in _RAW_WEIGHTS:
        raise InputError(
            f"{path} holds raw weights; write a detector first: msp-ds import {path} --from vg-detector --out FOLDER"
        )
    raise InputError(
        f"{path} is no detector: it should be an .onnx file or its folder, a folder with the config.json of a Hugging "
        f"Face model, or one with the {DETECTOR_FILE} that msp-ds import --from vg-detector writes"
    )


def _kind_of_hub_name(name: str, *, others: list[str]) -> str:
    if name.count("/") != 1 or not all(name.split("/")) or name.startswith((".", "~")):
        known = f"; entry points are {', '.join(others)}" if others else ""
        raise InputError(f"{name} is neither a file or folder nor the name of a model on the hub, as org/name{known}")
    try:
        config = _import("transformers").AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{name} is not here and cannot be loaded from the hub ({reason}); name its folder") from None
    return _kind_of_model(config.model_type)


def _kind_of_model(model_type: str) -> str:
    """Return `transformers` for a type of object detector, and `grid` for any other vision model."""
    auto = _import("transformers.models.auto.modeling_auto")
    return "transformers" if model_type in auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES else "grid"


def _import(module: str) -> Any:
    """Import a module that needs the extra. Raises: InputError that names the command which installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("transformers", "onnxruntime"):
            raise
        raise InputError(f"{error.name} is not installed; install it with: pip install 'msp-ds[regions]'") from None
