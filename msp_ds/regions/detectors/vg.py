"""The detector of bottom-up attention, whose regions LXMERT, UNITER and MSP were trained on, from a folder of `import`.

H, W: height and width of the picture; N: RoIs of a picture; R: its regions; F: feature width.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.errors import InputError
from msp_ds.model.weights.tensor_files import read_tensors
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors.shared_steps import inference, installed_versions
from msp_ds.regions.detectors.vg_network import LEAST_SIDE, POOLED, STRIDE, VgNetwork
from msp_ds.regions.detectors.vg_selection import choose, describe, find_proposals, inside
from msp_ds.regions.detectors.vg_weights import ATTRIBUTES, OBJECTS, WEIGHTS, read_card, read_labels, to_our_layout
from msp_ds.regions.pooling import roi_pool
from msp_ds.storage.checksums import sha256_of_file

_MEANS = (102.9801, 115.9465, 122.7717)
"""Of blue, green and red in the pictures of training."""
_CHUNK, _GPU_CHUNK = 16, 1024
"""RoIs that go through res5 at once. The number is fixed, since the result of a RoI depends on it to the last bit."""
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class _Scene:
    """A picture after the backbone, on the device."""

    feature_map: Tensor
    boxes: Tensor
    """float32 [N, 4] in pixels of the resized picture."""
    is_found: Tensor
    """bool [N]: which boxes there are; the others fill up."""
    size: tuple[int, int]
    """Height and width of the resized picture,"""
    original: tuple[int, int]
    """and of the picture itself."""
    scale: float
    """Its pixels for a pixel of the picture."""


class VgDetector:
    """The detector in a folder that `msp-ds import --from vg-detector` wrote."""

    def __init__(self, folder: Path, *, options: DetectorOptions) -> None:
        """Raises: InputError when the folder is damaged or another one."""
        self._options, self._card, weights = options, read_card(folder), folder / WEIGHTS
        self._device = torch.device(options.device)
        self._chunk = _CHUNK if self._device.type == "cpu" else _GPU_CHUNK
        self._means = torch.tensor(_MEANS, device=self._device)
        with torch.device("meta"):
            self._network = VgNetwork(self._card.sizes)
        tensors = to_our_layout(read_tensors(weights), weights, self._card.sizes)[1]
        self._network.load_state_dict(tensors, assign=True)
        self._network.prepare(self._device, _PRECISIONS[options.precision])
        self.feature_width = self._network.feature_width
        sizes = self._card.sizes
        self.objects = read_labels(folder / OBJECTS, sizes.objects, of=weights)
        self.attributes = read_labels(folder / ATTRIBUTES, sizes.attributes, of=weights)
        settings = {name: str(getattr(options, name)) for name in ("selection", "regions", "precision")}
        settings |= {"size": f"{self._card.shorter_side} to {self._card.longer_side}", "resizer": self._card.resizer}
        self.record = DetectorRecord(
            kind="vg",
            name=folder.resolve().name,
            weights_sha256=sha256_of_file(weights),
            settings=settings | {"proposals": str(self._card.proposals)},
            objects_sha256=labels_sha256(self.objects),
            attributes_sha256=labels_sha256(self.attributes),
            versions=installed_versions("torch", "pillow"),
        )

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Return the regions of each upright RGB picture, uint8 [H, W, 3]; they do not depend on the others.

        Raises: InputError with the selection `given`, which needs boxes.
        """
        if self._options.selection == "given":
            raise InputError("--selection given describes your own boxes; give them, or choose caffe or max-nms")
        return self._regions((picture, None) for picture in pictures)

    def detect_boxes(self, pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Return what is in the user's boxes, row by row: float32 [R, 4] for each picture, x0 y0 x1 y1 in pixels of it.

        Raises: InputError for a box that is empty or not inside its picture.
        """
        return self._regions(zip(pictures, boxes, strict=True))

    def _scene(self, picture: np.ndarray, own: np.ndarray | None) -> _Scene:
        """Return a picture after the backbone, with `own` boxes or those that the network proposes."""
        resized, scale = self._resized(picture)
        size = resized.shape[0], resized.shape[1]
        if min(size) < LEAST_SIDE:
            if own is not None and len(own):
                raise InputError(f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels is too narrow for boxes")
            cell = self._means.new_zeros(self.feature_width // 2, 1, 1, dtype=_PRECISIONS[self._options.precision])
            nothing = self._means.new_zeros(0, 4)
            return _Scene(cell, nothing, nothing[:, 0] > 0, size, picture.shape[:2], scale)
        image = torch.from_numpy(resized).to(self._device, non_blocking=True).flip(2) - self._means
        feature_map = self._network.feature_map(image.permute(2, 0, 1))
        if own is None:
            logits, deltas, anchors = self._network.proposal_generator(feature_map)
            boxes, is_found = find_proposals(logits, deltas, anchors, size, most=self._card.proposals)
        else:
            boxes = torch.from_numpy(_checked(own, picture) * scale).to(self._device)
            is_found = torch.ones(len(boxes), dtype=torch.bool, device=self._device)
        if self._device.type == "cpu":
            # No more than there are; and whole chunks, so that each picture begins one.
            count = int(is_found.sum())
            rows = -count % self._chunk
            boxes, is_found = F.pad(boxes[:count], (0, 0, 0, rows)), F.pad(is_found[:count], (0, rows))
        return _Scene(feature_map, boxes, is_found, size, picture.shape[:2], scale)

    def _resized(self, picture: np.ndarray) -> tuple[np.ndarray, float]:
        height, width = picture.shape[:2]
        scale = min(self._card.shorter_side / min(height, width), self._card.longer_side / max(height, width))
        size = max(int(width * scale + 0.5), 1), max(int(height * scale + 0.5), 1)
        return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)), scale

    @inference()
    def _regions(self, tasks: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> list[DetectedRegions]:
        scenes = [self._scene(*task) for task in tasks]
        if not scenes:
            return []
        pooled = (roi_pool(scene.feature_map, scene.boxes, stride=STRIDE, size=POOLED) for scene in scenes)
        features = [self._network.roi_features(chunk) for chunk in _in_chunks(pooled, self._chunk)]
        logits = (self._network.roi_heads.box_predictor(chunk) for chunk in features)  # in the same chunks
        found = [torch.cat(list(part)) for part in (features, *zip(*logits, strict=True))]
        starts = itertools.accumulate((len(scene.boxes) for scene in scenes), initial=0)
        return [
            self._chosen(scene, *(part[start : start + len(scene.boxes)] for part in found))
            for scene, start in zip(scenes, starts, strict=False)
        ]

    def _chosen(self, scene: _Scene, features: Tensor, *logits: Tensor) -> DetectedRegions:
        """Bring a picture's boxes to the host and choose its regions."""
        selection = self._options.selection
        found = describe(selection, scene.boxes, scene.is_found, logits, scene.size)
        found["features"], is_found = features.half(), scene.is_found.to("cpu")
        found = {name: part.to("cpu")[is_found] for name, part in found.items()}
        rows = choose(selection, found, self._options.regions)
        found["boxes"] = inside(found["boxes"] / scene.scale, *scene.original)
        del found["ranks"]
        return DetectedRegions(**{name: part[rows].numpy() for name, part in found.items()})


def _in_chunks(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the rows of all pieces in chunks of `size`; the last is filled up with zeros."""
    rest: Tensor | None = None
    for piece in pieces:
        rest = piece if rest is None or not len(rest) else torch.cat((rest, piece))
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest is not None:  # also without rows, where there are no others
        missing = rest.new_zeros(-len(rest) % size, *rest.shape[1:])
        yield torch.cat((rest, missing)).contiguous(memory_format=torch.channels_last)


def _checked(boxes: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return a user's boxes, float32 [R, 4]. Raises: InputError unless each has an area, all in the picture."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = boxes.T
    wrong = np.flatnonzero(~((x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)))
    if len(wrong):
        box = ", ".join(f"{side:g}" for side in boxes[wrong[0]])
        raise InputError(f"box {wrong[0]} ({box}) is empty or outside its picture of {width} x {height} pixels")
    return boxes.astype(np.float32)
