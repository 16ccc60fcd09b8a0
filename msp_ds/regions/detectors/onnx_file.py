"""Detectors in ONNX files. A TOML file beside the model says what its inputs and outputs mean: `OnnxDescription`.

examples/centernet_coco80.toml explains each key. N boxes of the model, C labels, R regions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from msp_ds.config import from_json, to_json
from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.pooling import box_means
from msp_ds.regions.selection import max_nms
from msp_ds.storage.checksums import sha256_of_file
from msp_ds.storage.small_files import parse_toml, read_small_text, reason

CANDIDATES = 256
"""Boxes of the highest scores, among which the regions are chosen."""


@dataclass(frozen=True, kw_only=True)
class OnnxInput:
    """How a picture enters the model: float32 [1, 3, height, width], (pixel * scale - mean) / deviation."""

    name: str
    size: tuple[int, int]
    """Height and width, pixels."""
    fit: Literal["stretch", "letterbox", "letterbox-centred"] = "stretch"
    """Squash the picture, or keep its proportions and fill what is left below and to the right, or on both sides."""
    filling: int = 114
    """Grey value of what is left."""
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    """1.0 leaves pixels at 0 to 255, 0.00392157 gives 0 to 1."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In the order of the channels, as the next."""
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if min(self.size) < 1 or 0.0 in self.deviation:
            raise InputError(f"size {self.size} and deviation {self.deviation} must be above 0")


@dataclass(frozen=True, kw_only=True)
class OnnxOutput:
    """Where the boxes are: a list with scores, or the peaks of a heat map with the extent of the box at each cell."""

    boxes: str = ""
    """Output [1, N, 4]."""
    scores: str = ""
    """Output [1, N, C], or [1, N] beside `labels`."""
    labels: str = ""
    """Output [1, N]: the label of each score, where there is only one."""
    box_form: Literal["xyxy", "cxcywh"] = "xyxy"
    box_unit: Literal["pixels", "fractions"] = "pixels"
    """Of the input, after `fit`."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """What makes probabilities of the scores; softmax drops the last column, which stands for no object."""
    heat_map: str = ""
    """Output [1, C, h, w], in place of boxes and scores: peaks of 3 x 3 cells are centres of boxes."""
    extents: str = ""
    """Output [1, 4, h, w]: pixels from the centre to the left, upper, right and lower side."""

    def __post_init__(self) -> None:
        if bool(self.boxes and self.scores) == bool(self.heat_map and self.extents):
            raise InputError("name boxes and scores, or heat_map and extents")


@dataclass(frozen=True, kw_only=True)
class OnnxDescription:
    """The TOML file beside a model."""

    labels: str
    """File of the labels beside the TOML, one a line."""
    input: OnnxInput
    output: OnnxOutput
    feature_maps: tuple[str, ...]
    """Outputs [1, K, h, w] whose means over a box are joined to its features."""
    label_threshold: float = 0.15
    """A region whose best score is lower keeps the score and has no label."""
    name: str = ""
    """Name of the detector. [that of the file]"""

    @property
    def output_names(self) -> list[str]:
        """All outputs that are read."""
        named = (self.output.boxes, self.output.scores, self.output.labels, self.output.heat_map, self.output.extents)
        return [name for name in (*named, *self.feature_maps) if name]


def read_description(path: Path) -> OnnxDescription:
    """Read the TOML file beside a model. Raises: InputError for a missing or broken file and for unknown keys."""
    try:
        value = parse_toml(read_small_text(path, what="a TOML file that describes an ONNX model"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing; it says what the outputs of the model mean, as examples/centernet_coco80.toml does"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML ({reason(error)})") from None
    return from_json(OnnxDescription, value, where=str(path))


def find_model(path: Path) -> tuple[Path, Path]:
    """Return the .onnx file and the TOML file of a file, or of a folder that holds one of each.

    Raises: InputError for a folder with several models.
    """
    models = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if len(models) != 1:
        raise InputError(f"{path} holds {len(models)} .onnx files; name the one to use")
    named = models[0].with_suffix(".toml")
    return models[0], named if named.exists() else models[0].with_name("detector.toml")


def open_onnx(path: Path, *, options: DetectorOptions) -> OnnxDetector:
    """Open a model. Raises: InputError for files that cannot be read or do not fit each other."""
    model, toml = find_model(path)
    description = read_description(toml)
    labels_path = toml.with_name(description.labels)
    try:
        labels = tuple(read_small_text(labels_path, what="labels, one a line").splitlines())
    except (OSError, ValueError) as error:
        raise InputError(f"{labels_path} cannot be read ({reason(error)}); it should hold a label a line") from None
    return OnnxDetector(model, description, labels, options=options)


class OnnxDetector:
    """A detector of `msp_ds.regions.detector`, one picture at a time in one thread."""

    def __init__(
        self, model: Path, description: OnnxDescription, labels: tuple[str, ...], *, options: DetectorOptions
    ) -> None:
        self._session = _session(model, options.device)
        self._description = description
        self._regions = options.regions
        self.objects = labels
        self.attributes: tuple[str, ...] = ()
        self._require_outputs(model)
        probe = self._run(np.zeros((8, 8, 3), dtype=np.uint8))[0]
        self.feature_width = sum(probe[name].shape[1] for name in description.feature_maps)
        self.record = DetectorRecord(
            kind="onnx",
            name=description.name or model.stem,
            weights_sha256=sha256_of_file(model),
            settings={
                "description": hashlib.sha256(json.dumps(to_json(description)).encode()).hexdigest()[:16],
                "regions": str(options.regions),
                "resizer": "pillow bilinear",
            },
            objects_sha256=labels_sha256(labels),
            versions={"onnxruntime": onnxruntime.__version__},
        )

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Return the regions of each upright RGB picture, uint8 [H, W, 3]."""
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: np.ndarray) -> DetectedRegions:
        outputs, (left, top, width, height) = self._run(picture)
        boxes, scores, labels = candidates(outputs, self._description, num_labels=len(self.objects))
        frame = boxes.new_tensor([left, top, left, top])
        # A box that lies in the filling, or has no area, shows nothing of the picture.
        inside = (boxes - frame).clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        chosen = ((inside[:, 2:] - inside[:, :2]).amin(1) > 0).nonzero().squeeze(1)
        chosen = chosen[max_nms(inside[chosen], scores[chosen], self._regions)]
        input_size = torch.tensor([*self._description.input.size[::-1]] * 2)
        shares = (inside[chosen] + frame) / input_size
        features = [box_means(outputs[name][0], shares) for name in self._description.feature_maps]
        to_picture = boxes.new_tensor([picture.shape[1] / width, picture.shape[0] / height] * 2)
        scores, labels = scores[chosen], labels[chosen]
        labels[scores < self._description.label_threshold] = IGNORE
        return DetectedRegions(
            boxes=(inside[chosen] * to_picture).numpy(),
            features=torch.cat(features, dim=1).to(torch.float16).numpy(),
            object_ids=labels.numpy(),
            object_scores=scores.numpy(),
            attribute_ids=np.full(len(chosen), IGNORE, dtype=np.int64),
            attribute_scores=np.zeros(len(chosen), dtype=np.float32),
        )

    def _run(self, picture: np.ndarray) -> tuple[dict[str, Tensor], tuple[int, int, int, int]]:
        """Return the named outputs and where the picture lies in the input: left, top, width, height in pixels."""
        pixels, place = fitted(picture, self._description.input)
        names = self._description.output_names
        found = self._session.run(names, {self._description.input.name: pixels})
        return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}, place

    def _require_outputs(self, model: Path) -> None:
        """Require that the description fits the model. Raises: InputError that lists the names there are."""
        for kind, named, there in (
            ("input", [self._description.input.name], [one.name for one in self._session.get_inputs()]),
            ("output", self._description.output_names, [one.name for one in self._session.get_outputs()]),
        ):
            unknown = [name for name in named if name not in there]
            if unknown:
                raise InputError(f"{model} has no {kind} {unknown[0]!r}; it has {', '.join(there)}")
        if not self._description.feature_maps:
            raise InputError(
                f"the description of {model} names no feature_maps, without which regions have no features"
            )


def fitted(picture: np.ndarray, form: OnnxInput) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return float32 [1, 3, height, width] of uint8 [H, W, 3], and where the picture lies in it: left, top, width,
    height."""
    height, width = form.size
    scale = min(height / picture.shape[0], width / picture.shape[1])
    inner = (width, height)
    if form.fit != "stretch":
        inner = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    left, top = ((width - inner[0]) // 2, (height - inner[1]) // 2) if form.fit == "letterbox-centred" else (0, 0)
    sheet = np.full((height, width, 3), form.filling, dtype=np.uint8)
    resized = Image.fromarray(picture).resize(inner, Image.Resampling.BILINEAR)
    sheet[top : top + inner[1], left : left + inner[0]] = np.asarray(resized)
    pixels = sheet[..., ::-1] if form.channels == "bgr" else sheet
    mean, deviation = (np.array(three, dtype=np.float32) for three in (form.mean, form.deviation))
    values = (pixels.astype(np.float32) * np.float32(form.scale) - mean) / deviation
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None]), (left, top, *inner)


def candidates(
    outputs: dict[str, Tensor], description: OnnxDescription, *, num_labels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return at most CANDIDATES boxes float32 [N, 4], x0 y0 x1 y1 in pixels of the input, their best probability
    float32 [N], highest first, and its label int64 [N].

    Raises: InputError when the outputs do not have the shapes that the description promises.
    """
    form = description.output
    if form.heat_map:
        boxes, scores = _peaks(outputs[form.heat_map][0], outputs[form.extents][0], description.input.size)
    else:
        boxes, scores = outputs[form.boxes].reshape(-1, 4).float(), outputs[form.scores][0].float()
        scores = scores.sigmoid() if form.activation == "sigmoid" else scores
        scores = scores.softmax(-1)[..., :-1] if form.activation == "softmax" else scores
        if form.box_form == "cxcywh":
            boxes = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), dim=1)
        if form.box_unit == "fractions":
            boxes = boxes * torch.tensor([*description.input.size[::-1]] * 2)
    if form.labels:
        best, labels = scores.reshape(-1), outputs[form.labels].reshape(-1).to(torch.int64)
    elif scores.ndim == 2 and scores.shape[1] == num_labels:
        best, labels = scores.max(dim=1)
    else:
        raise InputError(f"the model gives scores of shape {list(scores.shape)} for {num_labels} labels")
    if not len(boxes) == len(best) == len(labels) or (labels.numel() and int(labels.max()) >= num_labels):
        raise InputError(f"the model gives {len(boxes)} boxes, {len(best)} scores and labels up to {labels.max()}")
    order = best.argsort(descending=True, stable=True)[:CANDIDATES]
    return boxes[order], best[order], labels[order]


def _peaks(heat: Tensor, extents: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the box of every cell of a heat map, float32 [h * w, 4], and its scores [h * w, C], 0 beside peaks."""
    rows, columns = heat.shape[1:]
    peaks = heat * (heat == F.max_pool2d(heat[None], 3, stride=1, padding=1)[0])
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centres = torch.stack((x * (size[1] / columns), y * (size[0] / rows)))
    boxes = torch.cat((centres - extents[:2], centres + extents[2:]))
    return boxes.flatten(1).T, peaks.flatten(1).T


def _session(model: Path, device: str) -> Any:
    """Open a model for one thread, so that a result does not depend on their number."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(torch.device(device).type, device)
    if provider not in onnxruntime.get_available_providers():
        raise InputError(f"onnxruntime cannot compute on {device} here; take --device cpu, or install onnxruntime-gpu")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=[provider])
    except Exception as error:  # onnxruntime's own classes share no base
        raise InputError(f"{model} cannot be opened as an ONNX model: {str(error).splitlines()[0]}") from None
