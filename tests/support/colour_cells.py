"""A small real detector for tests: the nine cells of a picture, with their mean colours as features and labels."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msp_ds.detector_record import DetectorRecord, labels_sha256
from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, DetectorOptions

OBJECTS = ("red,crimson", "green", "blue")
NAME = "colours"


class ColourDetector:
    """Finds the cells of a 3 x 3 grid, the brightest first, in which a pixel is not black; the label is the strongest
    colour. Pictures below 3 x 3 pixels have no region."""

    feature_width = 6
    objects = OBJECTS
    attributes: tuple[str, ...] = ()

    def __init__(self, *, options: DetectorOptions) -> None:
        self._count = options.regions
        self.record = DetectorRecord(
            kind=NAME,
            name="3x3",
            weights_sha256=hashlib.sha256(b"").hexdigest(),
            settings={"regions": str(options.regions), "precision": options.precision},
            objects_sha256=labels_sha256(OBJECTS),
        )

    def detect(self, pictures: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """Regions of each picture; with COLOURS_END a process that was started for it ends, as for lack of memory."""
        if "COLOURS_END" in os.environ and multiprocessing.parent_process():
            if os.environ["COLOURS_END"] == "complain":
                raise InputError("colours are out")
            os._exit(1)
        return [self._regions(picture, self._cells(picture)) for picture in pictures]

    def _cells(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[0] // 3, picture.shape[1] // 3
        cells = [(x * width, y * height, (x + 1) * width, (y + 1) * height) for y in range(3) for x in range(3)]
        bright = sorted(cells, key=lambda cell: (-int(_pixels(picture, cell).astype(np.int64).sum()), cell))
        kept = [cell for cell in bright if height and width and _pixels(picture, cell).any()]
        return np.array(kept[: self._count], np.float32).reshape(-1, 4)

    def _regions(self, picture: np.ndarray, boxes: np.ndarray) -> DetectedRegions:
        means = np.array([_statistics(_pixels(picture, box)) for box in boxes.astype(int)]).reshape(-1, 6)
        return DetectedRegions(
            boxes=boxes,
            features=means.astype(np.float16),
            object_ids=means[:, :3].argmax(1),
            object_scores=means[:, :3].max(1).astype(np.float32),
            attribute_ids=np.full(len(boxes), IGNORE),
            attribute_scores=np.zeros(len(boxes), np.float32),
        )


class BoxColourDetector(ColourDetector):
    """Also takes a user's own boxes."""

    def detect_boxes(self, pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[DetectedRegions]:
        """The same of given boxes, in their order."""
        return [self._regions(picture, own) for picture, own in zip(pictures, boxes, strict=True)]


def _pixels(picture: np.ndarray, box: Sequence[int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    return picture[y0:y1, x0:x1].reshape(-1, 3)


def _statistics(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate((pixels.mean(0), pixels.std(0))) / 255


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the detector as an installed package does, by an entry point, to this process and those it starts."""
    about = folder / "colour_cells-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-cells\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[msp_ds.detectors]\n{NAME} = colour_cells:BoxColourDetector\nplain = colour_cells:ColourDetector\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    paths = [str(folder), str(Path(__file__).parent), str(Path(__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    assert paths[1] in sys.path


Write = Callable[..., list[str]]
"""write(photos, out, **options of RegionsJob)"""


def draw(path: Path, seed: int, *, size: tuple[int, int] = (30, 24)) -> Path:
    """A picture of noise, which its seed decides."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
