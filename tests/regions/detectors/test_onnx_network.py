"""An ONNX file from opening to regions, on small networks whose outputs are constants and the input itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_model import write_onnx

from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors.onnx_file import OnnxDetector, open_onnx

BOXES = np.array([[[0, 0, 4, 4], [4, 4, 8, 8], [4, 0, 8, 4]]], dtype=np.float32)
SCORES = np.array([[[0.1, 0.8], [0.12, 0.1], [0.9, 0.2]]], dtype=np.float32)
PICTURE = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)


def network(folder: Path, *, entry: str = "", scores: np.ndarray = SCORES) -> OnnxDetector:
    write_onnx(folder / "small.onnx", size=8, outputs={"boxes": BOXES, "scores": scores})
    (folder / "names.txt").write_text("cat\nfire hydrant,hydrant\n")
    (folder / "small.toml").write_text(
        f'labels = "names.txt"\n[input]\nname = "picture"\nwidth = 8\nheight = 8\n{entry}\n'
        '[outputs]\nboxes = "boxes"\nscores = "scores"\nfeature_maps = ["map"]\n'
    )
    return open_onnx(folder / "small.onnx", options=DetectorOptions(regions=3))


def found(detector: OnnxDetector, picture: np.ndarray = PICTURE) -> DetectedRegions:
    return detector.detect([picture])[0]


def test_the_best_label_orders_the_regions_and_boxes_are_pixels_of_the_picture(tmp_path: Path) -> None:
    regions = found(network(tmp_path))
    assert regions.boxes.tolist() == [[16, 0, 32, 8], [0, 0, 16, 8], [16, 8, 32, 16]]
    assert regions.object_scores.tolist() == np.float32([0.9, 0.8, 0.12]).tolist()
    assert regions.object_ids.tolist() == [0, 1, -1]  # 0.12 is below the threshold of 0.15


def test_features_are_means_of_the_map_over_the_box(tmp_path: Path) -> None:
    half = np.zeros((8, 8, 3), dtype=np.uint8)
    half[:, 4:] = (200, 100, 50)
    features = found(network(tmp_path), half).features
    # Of seven samples across, six lie in the right half and one blends in 3/14 of the pixel beside it.
    assert features[0].tolist() == np.float16([colour * (6 + 11 / 14) / 7 for colour in (200, 100, 50)]).tolist()


def test_boxes_in_the_borders_of_a_letterbox_are_no_regions(tmp_path: Path) -> None:
    # 16 x 32 becomes rows 2 to 6 of the input, so a pixel of the input is four of the picture.
    regions = found(network(tmp_path, entry='resize = "letterbox"'))
    assert regions.boxes.tolist() == [[16, 0, 32, 8], [0, 0, 16, 8], [16, 8, 32, 16]]


def test_a_picture_gives_the_same_bytes_alone_and_among_others(tmp_path: Path) -> None:
    detector, other = network(tmp_path), np.zeros((31, 9, 3), dtype=np.uint8)
    assert found(detector).features.tobytes() == detector.detect([other, PICTURE])[1].features.tobytes()


def test_a_network_without_a_score_for_each_label_is_refused_when_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"small\.toml does not fit small\.onnx: output scores has the shape"):
        network(tmp_path, scores=SCORES[..., :1])


def test_the_record_changes_with_what_changes_the_features(tmp_path: Path) -> None:
    first = network(tmp_path).record
    assert network(tmp_path).record.identity == first.identity
    assert network(tmp_path, entry="mean = [1, 2, 3]").record.identity != first.identity
