"""What detectors of other people share: the choice of their boxes, and regions without attributes.

N boxes, R regions, F feature width.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msp_ds.errors import InputError
from msp_ds.records import IGNORE
from msp_ds.regions.detector import DetectedRegions, Detector
from msp_ds.regions.selection import max_nms
from msp_ds.storage.checksums import sha256_of_file

LABEL_THRESHOLD = 0.15
"""Below this score a label is more often wrong than right: the region has none, and keeps its score."""
_CANDIDATES = 256
"""Boxes of the highest score among which regions are chosen: comparing all of a map's would take longer than the
network, and the others are nearly never reached."""


@contextmanager
def inference() -> Iterator[None]:
    """Compute without gradients; fp32 is true fp32 on a GPU too, as records of detectors say.

    Raises: InputError when the device's memory is full.
    """
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = False
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError:
        raise InputError("the device's memory is full; compute regions with --device cpu") from None
    finally:
        for kind, is_allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = is_allowed


def feature_width(detector: Detector) -> int:
    """Return F by the regions of a blank picture: what cannot be run is refused before a long job."""
    try:
        (found,) = detector.detect([np.zeros((64, 512, 3), dtype=np.uint8)])
    except InputError:
        raise
    except Exception as error:  # of other people's networks
        raise InputError(f"{detector.record.name} cannot be run: {one_line(error)}") from None
    return int(found.features.shape[1])


def sha256_of_files(files: Sequence[Path]) -> str:
    """Return the sha256 of a file, or of the sums of several."""
    sums = [sha256_of_file(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()


def clip_boxes(boxes: Tensor, picture: np.ndarray) -> Tensor:
    """Return boxes inside a picture [H, W, 3], float32 [N, 4] in pixels as they came."""
    height, width = picture.shape[:2]
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height], dtype=boxes.dtype))


def choose_rows(boxes: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return at most `count` rows of boxes that are not empty, int64 [R], the highest score first; see `max_nms`.

    boxes: float32 [N, 4], x0 y0 x1 y1; scores: float32 [N], each box's best label, 0 where there is nothing.

    Raises: InputError for NaN, which would be no region without a word.
    """
    if boxes.isnan().any() or scores.isnan().any():
        raise InputError("the detector computes boxes or scores that are NaN; take other weights")
    usable = ((boxes[:, 2:] > boxes[:, :2]).all(1) & (scores > 0)).nonzero()[:, 0]
    order = scores[usable].argsort(descending=True, stable=True)
    rows = usable[order[: max(_CANDIDATES, 4 * count)]]
    return rows[max_nms(boxes[rows], scores[rows], count)]


def plain_regions(boxes: Tensor, features: Tensor, labels: Tensor, scores: Tensor) -> DetectedRegions:
    """Return the regions of a picture without attributes.

    Args:
        boxes: float32 [R, 4] in pixels.
        features: float32 [R, F].
        labels: int64 [R], IGNORE where there is none.
        scores: float32 [R].
    """
    return DetectedRegions(
        boxes=boxes.numpy(),
        features=features.half().numpy(),
        object_ids=labels.numpy(),
        object_scores=scores.numpy(),
        attribute_ids=np.full(len(boxes), IGNORE, dtype=np.int64),
        attribute_scores=np.zeros(len(boxes), dtype=np.float32),
    )


def one_line(error: Exception) -> str:
    """Return another library's message in one line."""
    return " ".join(str(error).split())[:300]


def installed_versions(*names: str) -> dict[str, str]:
    """Return the versions of libraries, by name."""
    return {name: version(name) for name in names}
