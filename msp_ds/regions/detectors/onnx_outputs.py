"""The description of a detector in ONNX, and how its outputs become boxes.

C labels, N boxes, h and w cells of a map. examples/centernet_coco80.toml is such a description.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from msp_ds.errors import InputError
from msp_ds.regions.detectors.shared_steps import LABEL_THRESHOLD


@dataclass(frozen=True, kw_only=True)
class OnnxInput:
    """How a picture becomes the network's input, float32 [1, 3, height, width]."""

    name: str
    width: int
    height: int
    resize: Literal["stretch", "letterbox"] = "stretch"
    """The picture fills the input, or keeps its aspect ratio in the middle of it."""
    padding: int = 0
    """Value of a letterbox's borders, 0 to 255."""
    channels: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """The input is (value - mean) / std of values from 0 to 255, in the order of `channels`."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not (0 < self.width <= 8192 and 0 < self.height <= 8192 and 0 <= self.padding <= 255):
            raise InputError("width and height must be 1 to 8192, and padding 0 to 255")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise InputError("mean and std must be three numbers each, and std not 0")


@dataclass(frozen=True, kw_only=True)
class OnnxOutputs:
    """Names of the outputs: either boxes and scores, or heat_map and sizes; and the maps that become features."""

    feature_maps: tuple[str, ...]
    """[1, channels, h, w] each; a region's feature is the mean of each over its box, joined."""
    boxes: str = ""
    """[1, N, 4]."""
    box_format: Literal["xyxy", "cxcywh"] = "xyxy"
    box_unit: Literal["pixels", "fractions"] = "pixels"
    """Of the input as the network sees it."""
    scores: str = ""
    """[1, N, C], or with C + 1 columns, of which the last is "no object"; [1, N] where `label_ids` is named."""
    label_ids: str = ""
    """[1, N], line numbers of the labels from 0."""
    heat_map: str = ""
    """[1, C, h, w], as CenterNet has it; a box is a cell that no neighbour exceeds."""
    sizes: str = ""
    """[1, 4, h, w], distances in pixels of the input from a cell's corner to the left, top, right and bottom."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """What makes scores of the outputs."""

    def __post_init__(self) -> None:
        pairs = (bool(self.boxes), bool(self.scores), bool(self.heat_map), bool(self.sizes))
        if pairs not in ((True, True, False, False), (False, False, True, True)):
            raise InputError("name either boxes and scores, or heat_map and sizes")
        if not self.feature_maps:
            raise InputError("feature_maps is empty; name at least one output [1, channels, height, width]")

    @property
    def names(self) -> list[str]:
        """All outputs that are read."""
        found = (self.boxes, self.scores, self.label_ids, self.heat_map, self.sizes, *self.feature_maps)
        return [name for name in dict.fromkeys(found) if name]


@dataclass(frozen=True, kw_only=True)
class OnnxDescription:
    """The TOML beside an ONNX file."""

    labels: str
    """File of one label a line, beside the TOML; synonyms behind commas."""
    input: OnnxInput
    outputs: OnnxOutputs
    label_threshold: float = LABEL_THRESHOLD
    """A region of a lower score has no label."""


def decode_outputs(
    arrays: Mapping[str, Tensor], description: OnnxDescription, num_labels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes float32 [N, 4] as x0 y0 x1 y1 in pixels of the input, best scores float32 [N] and labels int64 [N].

    Raises: InputError for an output of another shape than the description says.
    """
    outputs, image = description.outputs, description.input
    if outputs.heat_map:
        return _decode_heat_map(arrays[outputs.heat_map], arrays[outputs.sizes], description, num_labels)
    boxes = arrays[outputs.boxes].float()
    _demand(outputs.boxes, boxes, boxes.ndim == 3 and boxes.shape[0] == 1 and boxes.shape[2] == 4, "[1, N, 4]")
    boxes, scores = boxes[0], arrays[outputs.scores].float()
    if outputs.label_ids:
        labels, rows = arrays[outputs.label_ids], (1, len(boxes))
        for name, found in ((outputs.scores, scores), (outputs.label_ids, labels)):
            _demand(name, found, found.shape == rows, f"{list(rows)}")
        best, labels = _activate(scores[0, :, None], outputs.activation)[:, 0], labels[0].long()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
            raise InputError(f"output {outputs.label_ids} has label {int(labels.max())} of {num_labels} labels")
    else:
        shapes = [(1, len(boxes), num_labels + extra) for extra in (0, 1)]
        _demand(outputs.scores, scores, scores.shape in shapes, f"{list(shapes[0])}, or one column more")
        best, labels = _activate(scores[0], outputs.activation)[:, :num_labels].max(1)
    if outputs.box_format == "cxcywh":
        boxes = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), dim=1)
    if outputs.box_unit == "fractions":
        boxes = boxes * torch.tensor([image.width, image.height] * 2)
    return boxes, best, labels


def _decode_heat_map(
    heat: Tensor, sizes: Tensor, description: OnnxDescription, num_labels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `decode_outputs`, one box a cell; cells without a peak have score 0."""
    outputs, image = description.outputs, description.input
    is_map = heat.ndim == 4 and heat.shape[:2] == (1, num_labels)
    _demand(outputs.heat_map, heat, is_map, f"[1, {num_labels}, h, w]")
    height, width = heat.shape[2:]
    _demand(outputs.sizes, sizes, sizes.shape == (1, 4, height, width), f"[1, 4, {height}, {width}]")
    scores = _activate(heat[0].float().flatten(1).T, outputs.activation).T.reshape(-1, height, width)
    peaks = scores * (F.max_pool2d(scores[None], 3, stride=1, padding=1)[0] == scores)
    best, labels = peaks.flatten(1).max(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack((x * image.width / width, y * image.height / height)).flatten(1).T
    distances = sizes[0].float().flatten(1).T
    return torch.cat((cells - distances[:, :2], cells + distances[:, 2:]), dim=1), best, labels


def _activate(scores: Tensor, activation: str) -> Tensor:
    """Return scores [N, C] between 0 and 1."""
    if activation == "softmax":
        return scores.softmax(1)
    return scores.sigmoid() if activation == "sigmoid" else scores


def _demand(name: str, array: Tensor, is_right: bool, shape: str) -> None:
    if not is_right:
        raise InputError(f"output {name} has the shape {list(array.shape)}; the description and labels say {shape}")
