"""A detector in an ONNX file, with a TOML that describes its input and outputs."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor

from msp_ds.config import from_json, to_json
from msp_ds.data.format.text import load_labels
from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors import shared_steps
from msp_ds.regions.detectors.onnx_outputs import OnnxDescription, OnnxInput, decode_outputs
from msp_ds.regions.pooling import box_means
from msp_ds.storage.small_files import parse_toml, read_small_text, reason

log = logging.getLogger(__name__)
_CUDA = "CUDAExecutionProvider"


def open_onnx(path: Path, *, options: DetectorOptions) -> OnnxDetector:
    """Open an `.onnx` file with its description beside it, `NAME.toml` or `detector.toml`.

    Raises: InputError for a missing or wrong description, and for a network that does not fit it.
    """
    beside = [path.with_suffix(".toml"), path.with_name("detector.toml")]
    toml = next((one for one in beside if one.is_file()), None)
    if toml is None:
        fix = "examples/centernet_coco80.toml explains what to write"
        raise InputError(f"{path} has no description; write {beside[0].name} or {beside[1].name} beside it: {fix}")
    try:
        table = parse_toml(read_small_text(toml, what="a description of a detector in TOML"))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{toml} should describe {path.name}, but is not valid TOML: {reason(error)}") from None
    description = from_json(OnnxDescription, table, where=str(toml))
    objects = tuple(",".join(label) for label in load_labels(toml.parent / description.labels))
    try:
        return OnnxDetector(path, description=description, objects=objects, options=options)
    except InputError as error:
        raise InputError(f"{toml} does not fit {path.name}: {error}") from None


class OnnxDetector:
    """The regions that an ONNX network finds: one picture at a time and in one thread, so that no result depends on the
    others of a batch."""

    attributes: tuple[str, ...] = ()

    def __init__(
        self, path: Path, *, description: OnnxDescription, objects: tuple[str, ...], options: DetectorOptions
    ) -> None:
        self._description, self.objects, self._regions = description, objects, options.regions
        self._session = _open_session(path, options.device)
        _check_names(self._session, description)
        read = to_json(dataclasses.replace(description, labels=""))  # those are on record by their content
        settings = {
            "regions": str(options.regions),
            "resizer": "Pillow bilinear",
            "precision": "fp32",
            "description": hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16],
        }
        self.record = DetectorRecord(
            kind="onnx",
            name=path.stem,
            # torch.onnx writes large weights to NAME.onnx.data, others to NAME.onnx_data.
            weights_sha256=shared_steps.sha256_of_files(
                [path, *sorted(path.parent.glob(f"{glob.escape(path.name)}[._]data*"))]
            ),
            settings=settings,
            objects_sha256=labels_sha256(objects),
            versions=shared_steps.installed_versions("onnxruntime", "torch", "pillow"),
        )
        self.feature_width = shared_steps.feature_width(self)

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Return the regions of each picture; see `Detector`."""
        return [self._detect_one(picture) for picture in pictures]

    def _detect_one(self, picture: np.ndarray) -> DetectedRegions:
        image, names = self._description.input, self._description.outputs.names
        values, scale, offset = prepare_input(picture, image)
        found = self._session.run(names, {image.name: values})
        arrays = {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}
        boxes, scores, labels = decode_outputs(arrays, self._description, len(self.objects))
        boxes = shared_steps.clip_boxes((boxes - offset) / scale, picture)
        rows = shared_steps.choose_rows(boxes, scores, self._regions)
        boxes, scores, labels = boxes[rows], scores[rows], labels[rows]
        labels = labels.where(scores >= self._description.label_threshold, IGNORE)
        fractions = (boxes * scale + offset) / torch.tensor([image.width, image.height] * 2)
        return shared_steps.plain_regions(boxes, self._pooled(arrays, fractions), labels, scores)

    def _pooled(self, arrays: dict[str, Tensor], fractions: Tensor) -> Tensor:
        """The mean of each feature map over boxes float32 [R, 4], fractions of the input, joined: float32 [R, F]."""
        maps = {name: arrays[name] for name in self._description.outputs.feature_maps}
        for name, array in maps.items():
            if array.ndim != 4 or len(array) != 1:
                raise InputError(f"feature map {name} has the shape {list(array.shape)}, not [1, channels, h, w]")
        return torch.cat([box_means(array[0].float(), fractions) for array in maps.values()], dim=1)


def prepare_input(picture: np.ndarray, image: OnnxInput) -> tuple[np.ndarray, Tensor, Tensor]:
    """Return the network's input, and what turns a box of the picture into one of the input: times scale, plus offset.

    picture: uint8 [H, W, 3]. The results are float32 [1, 3, height, width], [4] and [4].
    """
    height, width = picture.shape[:2]
    new_width, new_height = image.width, image.height
    if image.resize == "letterbox":
        ratio = min(image.width / width, image.height / height)
        new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    left, top = (image.width - new_width) // 2, (image.height - new_height) // 2
    canvas = np.full((image.height, image.width, 3), image.padding, dtype=np.uint8)
    resized = Image.fromarray(picture).resize((new_width, new_height), Image.Resampling.BILINEAR)
    canvas[top : top + new_height, left : left + new_width] = np.asarray(resized)
    pixels = canvas[..., ::-1] if image.channels == "BGR" else canvas
    mean, std = (np.array(numbers, dtype=np.float32) for numbers in (image.mean, image.std))
    values = (pixels.astype(np.float32) - mean) / std
    scale = torch.tensor([new_width / width, new_height / height] * 2)
    return np.ascontiguousarray(values.transpose(2, 0, 1))[None], scale, torch.tensor([float(left), float(top)] * 2)


def _open_session(path: Path, device: str) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors alone
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        if _CUDA in onnxruntime.get_available_providers():
            index = str(torch.device(device).index or 0)
            providers.insert(0, (_CUDA, {"device_id": index, "use_tf32": "0"}))
        else:
            log.warning("%s runs on the CPU: onnxruntime has no CUDA here; install onnxruntime-gpu for it", path)
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise InputError(f"the file is not a network in ONNX: {shared_steps.one_line(error)}") from None


def _check_names(session: onnxruntime.InferenceSession, description: OnnxDescription) -> None:
    inputs, outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
    if inputs != [description.input.name]:
        raise InputError(f"its inputs are {', '.join(inputs)}, and input.name is {description.input.name}")
    missing = sorted(set(description.outputs.names) - set(outputs))
    if missing:
        raise InputError(f"it has no output {', '.join(missing)}; its outputs are {', '.join(outputs)}")
