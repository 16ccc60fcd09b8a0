"""Detectors in ONNX files: small models whose outputs are known, and a real one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx_model import write_onnx
from PIL import Image

from msp_ds.errors import InputError
from msp_ds.regions.detector import DetectedRegions, DetectorOptions
from msp_ds.regions.detectors.onnx_file import OnnxDetector, OnnxInput, fitted, open_onnx

ROOT = Path(__file__).resolve().parents[3]
INPUT = '[input]\nname = "picture"\nsize = [8, 8]\nscale = 1.0\n'
LIST = '[output]\nboxes = "boxes"\nscores = "scores"\n'
BOXES = np.array([[[0, 0, 4, 4], [4, 4, 8, 8], [4, 0, 8, 4]]], dtype=np.float32)
SCORES = np.array([[[0.1, 0.8], [0.12, 0.1], [0.9, 0.2]]], dtype=np.float32)


def model(
    folder: Path, *, head: str = "", form: str = INPUT, output: str = LIST, **outputs: np.ndarray
) -> OnnxDetector:
    write_onnx(folder / "small.onnx", size=8, outputs={"boxes": BOXES, "scores": SCORES} | outputs)
    (folder / "names.txt").write_text("cat\nfire hydrant,hydrant\n")
    named = 'labels = "names.txt"\nfeature_maps = ["map"]\n'
    (folder / "small.toml").write_text(named + head + form + output)
    return open_onnx(folder / "small.onnx", options=DetectorOptions(regions=3))


def picture(height: int = 16, width: int = 32) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def found(detector: OnnxDetector, *pictures: np.ndarray) -> DetectedRegions:
    return detector.detect(pictures or (picture(),))[0]


def test_the_best_label_orders_the_regions_and_boxes_are_pixels_of_the_picture(tmp_path: Path) -> None:
    regions = found(model(tmp_path))
    assert regions.boxes.tolist() == [[16, 0, 32, 8], [0, 0, 16, 8], [16, 8, 32, 16]]
    assert regions.object_scores.tolist() == np.float32([0.9, 0.8, 0.12]).tolist()
    assert regions.object_ids.tolist() == [0, 1, -1]  # 0.12 is below the threshold of 0.15


def test_features_are_means_of_the_map_over_the_box(tmp_path: Path) -> None:
    half = np.zeros((8, 8, 3), dtype=np.uint8)
    half[:, 4:] = (200, 100, 50)
    features = found(model(tmp_path), half).features
    # Of seven samples across, six lie in the right half and one blends in 3/14 of the pixel beside it.
    assert features[0].tolist() == np.float16([colour * (6 + 11 / 14) / 7 for colour in (200, 100, 50)]).tolist()
    assert features.dtype == np.float16


@pytest.mark.parametrize(
    ("lines", "outputs"),
    [
        ('box_form = "cxcywh"\n', {"boxes": np.float32([[[2, 2, 4, 4], [6, 6, 4, 4], [6, 2, 4, 4]]])}),
        ('box_unit = "fractions"\n', {"boxes": BOXES / 8}),
        ('activation = "sigmoid"\n', {"scores": np.log(SCORES / (1 - SCORES))}),
        (
            'activation = "softmax"\n',
            {"scores": np.log(np.concatenate((SCORES / 2, 1 - SCORES.sum(2, keepdims=True) / 2), axis=2))},
        ),
    ],
    ids=["cxcywh", "fractions", "sigmoid", "softmax"],
)
def test_other_forms_of_the_same_boxes_and_scores(tmp_path: Path, lines: str, outputs: dict[str, np.ndarray]) -> None:
    expected = found(model(tmp_path))
    other = found(model(tmp_path, output=LIST + lines, **outputs))
    halved = 2.0 if "softmax" in lines else 1.0
    assert other.boxes.tolist() == expected.boxes.tolist()
    assert (other.object_scores * halved).tolist() == pytest.approx(expected.object_scores.tolist())


def test_one_score_a_box_beside_its_label(tmp_path: Path) -> None:
    labels = np.array([[1, 0, 1]])
    output = LIST + 'labels = "classes"\n'
    regions = found(model(tmp_path, output=output, scores=SCORES.max(2), classes=labels))
    assert regions.object_ids.tolist() == [1, 1, -1]


def test_peaks_of_a_heat_map_are_centres_of_boxes(tmp_path: Path) -> None:
    heat, extents = np.zeros((1, 2, 4, 4), np.float32), np.zeros((1, 4, 4, 4), np.float32)
    heat[0, 1, 2, 1], heat[0, 1, 2, 2] = 0.9, 0.8  # the second is no peak
    extents[0, :, 2, 1] = (1, 2, 3, 4)  # pixels; a cell is two
    output = '[output]\nheat_map = "heat"\nextents = "extents"\n'
    regions = found(model(tmp_path, output=output, heat=heat, extents=extents), picture(8, 8))
    assert regions.boxes[0].tolist() == [1, 2, 5, 8]
    assert (regions.object_ids[0], len(regions.boxes)) == (1, 1)


def test_a_letterbox_keeps_proportions_and_boxes_in_its_filling_are_dropped(tmp_path: Path) -> None:
    regions = found(model(tmp_path, form=INPUT + 'fit = "letterbox"\n'))
    # 16 x 32 becomes 4 x 8 in the upper half, so a pixel of the input is four of the picture.
    assert regions.boxes.tolist() == [[16, 0, 32, 16], [0, 0, 16, 16]]
    centred = OnnxInput(name="picture", size=(8, 8), fit="letterbox-centred", filling=7)
    pixels, place = fitted(np.zeros((16, 32, 3), dtype=np.uint8), centred)
    assert place == (0, 2, 8, 4)
    assert pixels[0, 0].sum(1).tolist() == [56, 56, 0, 0, 0, 0, 56, 56]


def test_channels_scale_mean_and_deviation() -> None:
    red = np.zeros((2, 2, 3), dtype=np.uint8)
    red[..., 0] = 200
    form = OnnxInput(name="x", size=(2, 2), channels="bgr", scale=0.5, mean=(1, 2, 3), deviation=(1, 2, 4))
    assert fitted(red, form)[0][0, :, 0, 0].tolist() == [-1, -1, 24.25]


def test_a_picture_gives_the_same_bytes_alone_and_among_others(tmp_path: Path) -> None:
    detector = model(tmp_path)
    one, other = picture(), picture(31, 9)
    assert found(detector, one).features.tobytes() == detector.detect([other, one])[1].features.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": '[output]\nboxes = "bxs"\nscores = "scores"\n'}, "no output 'bxs'; it has map, boxes, scores"),
        ({"form": INPUT.replace("picture", "img")}, "no input 'img'; it has picture"),
        ({"output": '[output]\nboxes = "boxes"\n'}, "name boxes and scores, or heat_map and extents"),
        ({"head": "colour = 1\n"}, "unknown key colour"),
        ({"form": INPUT.replace("[8, 8]", "[8, 0]")}, "must be above 0"),
        ({"scores": SCORES[..., :1]}, r"scores of shape \[3, 1\] for 2 labels"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        found(model(tmp_path, **changes))


def test_missing_and_broken_files_are_one_line(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "small.toml").rename(tmp_path / "other.toml")
    with pytest.raises(InputError, match=r"detector.toml is missing; it says what .* examples/centernet_coco80.toml"):
        open_onnx(tmp_path, options=DetectorOptions())
    (tmp_path / "other.toml").rename(tmp_path / "detector.toml")
    (tmp_path / "small.onnx").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"small\.onnx cannot be opened as an ONNX model"):
        open_onnx(tmp_path, options=DetectorOptions())


def test_the_record_changes_with_what_changes_the_features(tmp_path: Path) -> None:
    first = model(tmp_path).record
    assert model(tmp_path).record.identity == first.identity
    assert model(tmp_path, form=INPUT.replace("1.0", "0.5")).record.identity != first.identity
    (tmp_path / "names.txt").write_text("dog\nhydrant\n")
    assert open_onnx(tmp_path, options=DetectorOptions(regions=3)).record.identity != first.identity


@pytest.fixture(scope="module")
def centernet(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxDetector:
    folder = tmp_path_factory.mktemp("detector")
    for path in (real_data / "detector").iterdir():
        shutil.copy(path, folder)
    shutil.copy(ROOT / "examples" / "centernet_coco80.toml", folder)
    (folder / "centernet_mobilenetv3_coco80.onnx").rename(folder / "centernet_coco80.onnx")
    return open_onnx(folder, options=DetectorOptions())


SEEN = {
    "COCO_train2014_000000207647.jpg": {"person", "baseball bat", "sports ball"},
    "COCO_train2014_000000494628.jpg": {"horse", "person"},
    "COCO_train2014_000000578174.jpg": {"car", "person"},
    "COCO_train2014_000000573195.jpg": {"car"},
    "COCO_train2014_000000132417.jpg": {"bird"},
    "astronaut.png": {"person"},
    "coffee.png": {"cup"},
    "motorcycle_left.png": {"motorcycle"},
}


@pytest.mark.parametrize("name", SEEN)
def test_a_real_detector_finds_what_anyone_sees(centernet: OnnxDetector, real_data: Path, name: str) -> None:
    pixels = np.asarray(Image.open(real_data / "photographs" / name).convert("RGB"))
    regions = centernet.detect([pixels])[0]
    named = {centernet.objects[label] for label in regions.object_ids if label >= 0}
    assert named >= SEEN[name]
    assert regions.features.shape == (36, 792)
    assert (regions.boxes >= 0).all()
    assert (regions.boxes[:, 2:] <= pixels.shape[1::-1]).all()


def test_the_cat_is_a_cat_or_a_dog(centernet: OnnxDetector, real_data: Path) -> None:
    regions = centernet.detect([np.asarray(Image.open(real_data / "photographs" / "chelsea.png"))])[0]
    assert centernet.objects[regions.object_ids[0]] in ("cat", "dog")
