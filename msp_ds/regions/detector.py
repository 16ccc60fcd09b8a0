"""The protocol of a detector, and what it finds in a picture. R regions, F feature width, H height, W width."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from msp_ds.detector_record import DetectorRecord

Selection = Literal["caffe", "max-nms", "given"]
Features = Literal["pooled", "states", "both"]
RegionPrecision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """What a user may choose of a detector; all but the device belongs to its record where the kind has the choice."""

    regions: int = 36
    """Regions of a picture at most."""
    selection: Selection = "caffe"
    """How the regions are chosen, of kind `vg`: as published features are, as py-bottom-up-attention's scripts do, or
    the user's own boxes."""
    features: Features = "pooled"
    """Of kind `transformers`: the mean of the backbone's map over the box, the decoder's state, or both joined."""
    precision: RegionPrecision = "fp32"
    device: str = "cpu"
    """A device of torch."""


@dataclass(frozen=True, kw_only=True)
class DetectedRegions:
    """The regions of one picture, those of the highest rank first; R may be smaller than asked for, and 0."""

    boxes: np.ndarray
    """float32 [R, 4]: x0 y0 x1 y1 in pixels of the upright picture, inside it."""
    features: np.ndarray
    """float16 [R, F]."""
    object_ids: np.ndarray
    """int64 [R]: line of the object labels, IGNORE where there is none."""
    object_scores: np.ndarray
    """float32 [R], 0 to 1."""
    attribute_ids: np.ndarray
    """int64 [R]: line of the attribute labels, IGNORE where there is none."""
    attribute_scores: np.ndarray
    """float32 [R], 0 to 1."""


class Detector(Protocol):
    """Finds regions in pictures. Equal records give equal regions, whatever the batch and its order."""

    record: DetectorRecord
    """What decides the result: weights, settings and label lists."""
    feature_width: int
    objects: tuple[str, ...]
    """Object labels, synonyms behind commas; () where the detector has none."""
    attributes: tuple[str, ...]
    """Attribute labels; () where the detector has none."""

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Return the regions of each upright RGB picture, uint8 [H, W, 3]; they do not depend on the others."""


@runtime_checkable
class BoxDetector(Protocol):
    """A detector that also computes the regions of a user's own boxes."""

    def detect_boxes(self, pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """As `detect`, with the regions of these boxes in their order, float32 [R, 4] in pixels of each picture."""
