"""A small detector that is real and deterministic: cells of a grid, each with its colours, sizes and place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, DetectorOptions

OBJECTS = ("black", "red,crimson", "green", "blue", "white")
ATTRIBUTES = ("plain", "spotted")
_COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.float64)
_COLUMNS, _LEAST_SIDE = 4, 8


class ColourDetector:
    """Names the colour that a cell's mean is nearest to; `detect` counts its pictures in `num_detected`."""

    def __init__(self, *, width: int = 16, regions: int = 12, gain: float = 1.0) -> None:
        self.objects, self.attributes, self.feature_width = OBJECTS, ATTRIBUTES, width
        self.num_detected = 0
        self._regions, self._gain = regions, gain
        self.record = DetectorRecord(
            kind="colours",
            name="colours",
            weights_sha256=f"{width:032x}{int(gain * 1000):032x}",
            settings={"regions": str(regions), "precision": "fp32"},
            objects_sha256=labels_sha256(OBJECTS),
            attributes_sha256=labels_sha256(ATTRIBUTES),
        )

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """The cells of each picture, those of smaller variance last; none in a picture of few pixels."""
        self.num_detected += len(pictures)
        return [self._regions_of(picture) for picture in pictures]

    def _regions_of(self, picture: np.ndarray) -> DetectedRegions:
        height, width = picture.shape[:2]
        rows = -(-self._regions // _COLUMNS)
        cells = [(row, column) for row in range(rows) for column in range(_COLUMNS)][: self._regions]
        if min(height, width) < _LEAST_SIDE:
            cells = []
        edges = np.array([[c / _COLUMNS, r / rows, (c + 1) / _COLUMNS, (r + 1) / rows] for r, c in cells])
        boxes = (edges.reshape(-1, 4) * [width, height, width, height]).astype(np.float32)
        features, objects, spotted = [], [], []
        for x0, y0, x1, y1 in boxes.astype(int).tolist():
            colours = picture[y0:y1, x0:x1].reshape(-1, 3).astype(np.float64)
            mean, spread = colours.mean(0), colours.std(0)
            objects.append(int(np.abs(_COLOURS - mean).sum(1).argmin()))
            spotted.append(int(spread.max() > 16))
            own = np.concatenate([mean, spread, [x0, y0]]) / 255 * self._gain
            features.append(np.resize(own, self.feature_width))
        return DetectedRegions(
            boxes=boxes,
            features=np.array(features, np.float32).astype(np.float16).reshape(-1, self.feature_width),
            object_ids=np.array(objects, np.int64),
            object_scores=np.full(len(boxes), 0.75, np.float32),
            attribute_ids=np.array(spotted, np.int64) if spotted else np.full(len(boxes), IGNORE, np.int64),
            attribute_scores=np.full(len(boxes), 0.5, np.float32),
        )


def open_colours(*, options: DetectorOptions) -> ColourDetector:
    """What the entry point names."""
    return ColourDetector(regions=options.regions)


def open_bright_colours(*, options: DetectorOptions) -> ColourDetector:
    """Another detector of equal width and labels."""
    return ColourDetector(regions=options.regions, gain=2.0)


def open_wide_colours(*, options: DetectorOptions) -> ColourDetector:
    """A detector of other width."""
    return ColourDetector(regions=options.regions, width=32)
