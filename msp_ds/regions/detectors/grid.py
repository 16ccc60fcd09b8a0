"""Any vision backbone as a detector without labels: the cells of a grid are the regions. n cells a side, P patches."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors import hugging_face, shared_steps

_MOST_PREFIX_TOKENS = 16
"""[CLS], distillation and register tokens before the patches."""


class GridDetector:
    """The n x n cells of a picture, row by row, with the mean of a backbone's last hidden states over each.

    The picture is stretched to the backbone's square, so that the cells cover all of it. A cell's mean is adaptive
    average pooling over the patches: exact where n divides them, else a patch on a border counts for both of its cells.
    """

    attributes: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    def __init__(self, name: str, *, options: DetectorOptions) -> None:
        self._cells = math.isqrt(options.regions)
        if self._cells**2 != options.regions:
            near = f"{self._cells**2} or {(self._cells + 1) ** 2}"
            raise InputError(f"{options.regions} regions are no grid of n x n cells; use --regions {near}")
        config = hugging_face.load_config(name)
        vision = getattr(config, "vision_config", config)
        if not isinstance(getattr(vision, "patch_size", None), int):
            raise InputError(f"{name} is a {config.model_type}, neither a detector nor a vision backbone with patches")
        self._patch, self._options, self._processor = vision.patch_size, options, hugging_face.load_processor(name)
        model = hugging_face.load_model(transformers.AutoModel, name, options, unused="pooler")
        self._model = getattr(model, "vision_model", model)  # CLIP and SigLIP have a text model beside it
        self._side = _input_side(self._processor, vision)
        settings = hugging_face.describe_processor(self._processor, f"{self._side} x {self._side} stretched")
        settings |= {"precision": options.precision, "regions": str(options.regions)}
        self.record = hugging_face.make_record("grid", name, self._model, settings, ())
        self.feature_width = shared_steps.feature_width(self)

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Return the regions of each picture; see `Detector`."""
        with shared_steps.inference():
            return [self._detect_one(picture) for picture in pictures]

    def _detect_one(self, picture: np.ndarray) -> DetectedRegions:
        size = {"height": self._side, "width": self._side}
        pixels = hugging_face.run_processor(self._processor, picture, do_resize=True, size=size, do_center_crop=False)
        output = self._model(pixel_values=pixels.to(self._options.device, self._model.dtype))
        patches = self._patch_map(output.last_hidden_state[0].float().cpu())
        features = F.adaptive_avg_pool2d(patches, self._cells).flatten(1).T
        nothing = torch.full((len(features),), IGNORE)
        return shared_steps.plain_regions(self._boxes(picture), features, nothing, torch.zeros(len(features)))

    def _patch_map(self, states: Tensor) -> Tensor:
        """The patches as a map [d, h, w]: of states [P + prefix, d], without [CLS] and registers."""
        side = self._side // self._patch
        prefix = len(states) - side * side
        if states.ndim != 2 or not 0 <= prefix <= _MOST_PREFIX_TOKENS:
            raise InputError(f"{type(self._model).__name__} gives {list(states.shape)}, not {side} x {side} patches")
        return states[prefix:].T.reshape(-1, side, side)

    def _boxes(self, picture: np.ndarray) -> Tensor:
        """The cells, float32 [n * n, 4] in pixels."""
        edges = torch.arange(self._cells + 1) / self._cells
        y, x = torch.meshgrid(edges * picture.shape[0], edges * picture.shape[1], indexing="ij")
        corners = (x[:-1, :-1], y[:-1, :-1], x[1:, 1:], y[1:, 1:])
        return torch.stack([corner.flatten() for corner in corners], dim=1)


def _input_side(processor: Any, vision: Any) -> int:
    """Pixels of the square that the processor makes of a picture, rounded down to whole patches."""
    crops = getattr(processor, "do_center_crop", False) and processor.crop_size
    size = dict((processor.crop_size if crops else getattr(processor, "size", None)) or {})
    side: Any = size.get("height") or size.get("shortest_edge") or getattr(vision, "image_size", 224)
    return int(side) // int(vision.patch_size) * int(vision.patch_size)
