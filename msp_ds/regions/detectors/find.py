"""Find a detector by its name: a folder, a file, an entry point or a model of the hub; its content tells the kind."""

import logging
import re
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path

import torch

from msp_ds.errors import InputError
from msp_ds.regions.detector import Detector, DetectorOptions
from msp_ds.storage.small_files import reason

log = logging.getLogger(__name__)

ENTRY_POINTS = "msp_ds.detectors"
"""Group of the entry points that give detectors: callables of the keyword `options`, which return a `Detector`."""
_EXTRA = ("transformers", "onnxruntime")


def find_detector(name: str, *, options: DetectorOptions) -> Detector:
    """Open the detector of a folder or file, else of an entry point, else of a name `org/name` on the hub.

    Raises: InputError if there is none, if it lacks a library, or if it has not the choice that an option makes.
    """
    if options.regions < 1:
        raise InputError(f"--regions {options.regions} is not positive")
    _check_device(options)
    path = Path(name)
    try:
        if path.exists():
            return _open_path(path, options)
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            factory: Callable[..., Detector] = entry.load()
            return factory(options=options)
        if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            log.info("%s is no folder or file here: it is looked for on the hub", name)
            return _open_transformers(name, options)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise InputError(f"{name} needs {error.name}, which is missing: pip install 'msp-ds[regions]'") from None
    except OSError as error:
        raise InputError(f"{name} cannot be opened ({reason(error)}); name a folder or file") from None
    known = ", ".join(sorted(entry_points(group=ENTRY_POINTS).names)) or "none"
    raise InputError(f"{name} is no file or folder, no detector of a package (there are: {known}) and no org/name")


def _open_path(path: Path, options: DetectorOptions) -> Detector:
    if path.is_file():
        return _open_file(path, options)
    if (path / "detector.json").is_file():
        from msp_ds.regions.detectors.vg import VgDetector

        _refuse_other_options("vg", options, "regions", "selection", "precision", "device")
        return VgDetector(path, options=options)
    networks = sorted(path.glob("*.onnx"))
    if len(networks) == 1:
        return _open_file(networks[0], options)
    if networks:
        raise InputError(f"{path} holds {len(networks)} .onnx files; name one, such as {networks[0]}")
    if (path / "config.json").is_file():
        return _open_transformers(str(path), options)
    expected = "detector.json (of msp-ds import), an .onnx file or config.json (of transformers)"
    raise InputError(f"{path} is no detector; its folder should hold {expected}")


def _open_file(path: Path, options: DetectorOptions) -> Detector:
    if path.suffix == ".onnx":
        from msp_ds.regions.detectors.onnx_file import open_onnx

        _refuse_other_options("onnx", options, "regions", "device")
        return open_onnx(path, options=options)
    fix = "it should be an .onnx file or a folder"
    if path.suffix in (".pkl", ".pth", ".bin"):
        fix += (
            f"; weights of bottom-up attention are converted by: msp-ds import {path} --from vg-detector "
            "--objects-vocab FILE --attributes-vocab FILE --out FOLDER"
        )
    raise InputError(f"{path} is no detector; {fix}")


def _open_transformers(name: str, options: DetectorOptions) -> Detector:
    from msp_ds.regions.detectors.grid import GridDetector
    from msp_ds.regions.detectors.hugging_face import HuggingFaceDetector, is_detector, load_config

    if is_detector(load_config(name).model_type):
        _refuse_other_options("transformers", options, "regions", "features", "precision", "device")
        return HuggingFaceDetector(name, options=options)
    _refuse_other_options("grid", options, "regions", "precision", "device")
    return GridDetector(name, options=options)


def _refuse_other_options(kind: str, options: DetectorOptions, *known: str) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in known and value != field.default:
            raise InputError(
                f"a detector of kind {kind} has no choice of {field.name}; leave out --{field.name} {value}"
            )


def _check_device(options: DetectorOptions) -> None:
    """Raise InputError for a device that is not here; warn of a processor that only imitates bf16."""
    try:
        torch.zeros(1, device=options.device).tolist()
    except (RuntimeError, AssertionError, ImportError):  # by the build of torch
        raise InputError(f"torch has no device {options.device} here; name another with --device") from None
    if options.precision == "bf16" and torch.device(options.device).type == "cpu":
        known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.6 does not tell
        if known and not any(has for name, has in known.items() if "bf16" in name):
            log.warning("this processor has no bf16 arithmetic: --precision bf16 takes many times as long as fp32 here")
